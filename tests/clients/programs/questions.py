# mypy: ignore-errors
"""What each program asks, and how it tells what it was answered: base URL, key and model come as arguments."""

import json
import sys

BASE_URL, KEY, MODEL = sys.argv[1:4]
FIRST, SECOND = "What is the capital of Spain?", "And of France?"


def tell(whole, streamed, second, **more):
    print(json.dumps({"whole": whole, "streamed": streamed, "second": second, **more}))
