"""Check: load a logged model with plain MLflow and get an answer from it.

Nothing of phi3kit takes part in the answer: what works here works wherever MLflow is.
"""

from typing import Any

import mlflow

QUESTION = "What is the capital of Spain?"
MESSAGES_INPUT = {"messages": [{"role": "user", "content": QUESTION}]}
PROMPT_INPUT = {"prompt": f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n"}


def answer_of(model_uri: str, wrapper: str) -> str:
    """The logged model's answer to one fixed question, by mlflow.pyfunc.load_model and predict."""
    model = mlflow.pyfunc.load_model(model_uri)
    output: Any = model.predict(MESSAGES_INPUT if wrapper == "transformers" else PROMPT_INPUT)
    text = output[0]["choices"][0]["message"]["content"] if wrapper == "transformers" else output[0]
    return str(text).strip()
