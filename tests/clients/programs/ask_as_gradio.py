# mypy: ignore-errors
"""The calls of gradio's load_chat: messages of its history have fields of its own."""

from openai import OpenAI
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

client = OpenAI(base_url=BASE_URL, api_key=KEY)
own = {"metadata": None, "options": None}
history = [{"role": "user", "content": FIRST, **own}]
answer = client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content
stream = client.chat.completions.create(model=MODEL, messages=history, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
history += [{"role": "assistant", "content": answer, "metadata": {"title": None}, "options": []}]
history += [{"role": "user", "content": SECOND, **own}]
tell(answer, streamed, client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content)
