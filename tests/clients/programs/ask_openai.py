# mypy: ignore-errors
"""The openai client, with its types checked strictly; answers are sent back as it keeps them."""

from openai import OpenAI
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, _strict_response_validation=True)
messages = [{"role": "user", "content": FIRST}]
answer = client.chat.completions.create(model=MODEL, messages=messages)
stream = client.chat.completions.create(
    model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
kept = [*messages, answer.choices[0].message.model_dump(), {"role": "user", "content": SECOND}]
second = client.chat.completions.create(model=MODEL, messages=kept)
tell(answer.choices[0].message.content, streamed, second.choices[0].message.content)
