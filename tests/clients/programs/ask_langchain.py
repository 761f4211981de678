# mypy: ignore-errors
"""LangChain's ChatOpenAI; a prompt beyond the context is its error of that name."""

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

model = ChatOpenAI(base_url=BASE_URL, api_key=KEY, model=MODEL, max_retries=0)
answer = model.invoke([HumanMessage(FIRST)])
streamed = "".join(chunk.content for chunk in model.stream([HumanMessage(FIRST)]))
second = model.invoke([HumanMessage(FIRST), answer, HumanMessage(SECOND)])
try:
    model.invoke([HumanMessage("the capital " * 3000)])
except Exception as error:
    too_long = type(error).__name__
tell(answer.content, streamed, second.content, too_long=too_long)
