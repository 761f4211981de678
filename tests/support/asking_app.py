"""An app without its pages, under load: python -m tests.support.asking_app MODEL_URI THREADS SECONDS.

Workers and a writer as the app has them, and so many visitors who ask without a pause. Prints a line for every turn that
was answered, so that whoever kills it knows which turns there must be.
"""

import sys
import threading
import time

from phi3kit.core.records import Message
from phi3kit.core.settings import read_settings
from phi3kit.endpoints.client import ask
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.writer import UsageWriter
from tests.support.actors import admin

QUESTION = Request((Message("user", "What is the capital of Spain?"),))


def main(model_uri: str, visitors: str, seconds: str) -> None:
    settings = read_settings()
    pool, writer = WorkerPool(settings), UsageWriter(settings)
    writer.start()
    endpoint = pool.endpoint(model_uri)
    ends_at = time.monotonic() + float(seconds)

    def visit() -> None:
        while time.monotonic() < ends_at:
            context = TurnContext(admin("ada"), "api")
            if ask(endpoint, QUESTION, context, settings).text == "The capital of Spain is Madrid.":
                sys.stdout.write(f"{context.turn_id}\n")
                sys.stdout.flush()
            time.sleep(0.3)

    threads = [threading.Thread(target=visit) for _ in range(int(visitors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
