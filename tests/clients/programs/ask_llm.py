# mypy: ignore-errors
"""`llm`, with a model of its openai plugin at another base URL."""

from llm.default_plugins.openai_models import Chat
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

model = Chat("phi3", model_name=MODEL, api_base=BASE_URL)
conversation = model.conversation()
answer = conversation.prompt(FIRST, stream=False, key=KEY).text()
streamed = "".join(model.prompt(FIRST, stream=True, key=KEY))
tell(answer, streamed, conversation.prompt(SECOND, stream=False, key=KEY).text())
