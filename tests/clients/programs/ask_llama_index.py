# mypy: ignore-errors
"""LlamaIndex's OpenAILike, for servers that speak OpenAI's protocol."""

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

model = OpenAILike(api_base=BASE_URL, api_key=KEY, model=MODEL, is_chat_model=True, context_window=4096, max_retries=0)
question = ChatMessage(role="user", content=FIRST)
answer = model.chat([question]).message
streamed = "".join(piece.delta or "" for piece in model.stream_chat([question]))
second = model.chat([question, answer, ChatMessage(role="user", content=SECOND)]).message
tell(answer.content, streamed, second.content)
