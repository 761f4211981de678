# mypy: ignore-errors
"""pydantic-ai's agent."""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell


async def main():
    agent = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY)))
    answer = await agent.run(FIRST)
    async with agent.run_stream(FIRST) as stream:
        streamed = "".join([text async for text in stream.stream_text(delta=True)])
    second = await agent.run(SECOND, message_history=answer.all_messages())
    tell(answer.output, streamed, second.output)


asyncio.run(main())
