# mypy: ignore-errors
"""LiteLLM; a prompt beyond the context is its error of that name."""

import litellm
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

call = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": KEY, "num_retries": 0}
messages = [{"role": "user", "content": FIRST}]
answer = litellm.completion(messages=messages, **call).choices[0].message
stream = litellm.completion(messages=messages, stream=True, **call)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
second = litellm.completion(messages=[*messages, answer.model_dump(), {"role": "user", "content": SECOND}], **call)
try:
    litellm.completion(messages=[{"role": "user", "content": "the capital " * 3000}], **call)
except Exception as error:
    too_long = type(error).__name__
tell(answer.content, streamed, second.choices[0].message.content, too_long=too_long)
