"""Check: a logged model, loaded with plain MLflow, answers.

Uses nothing of phi3kit: what works here works wherever MLflow is. Logs nothing.
"""

from typing import Any

import mlflow

QUESTION = "What is the capital of Spain?"
MESSAGES_INPUT = {"messages": [{"role": "user", "content": QUESTION}]}
PROMPT_INPUT = {"prompt": f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n"}

_TOKENS = 40  # of the answer; a big model on a small machine writes two a second


def load(model_uri: str, wrapper: str) -> Any:
    """The logged model as plain MLflow loads it, with answers kept short."""
    key = "max_new_tokens" if wrapper == "transformers" else "max_tokens"
    return mlflow.pyfunc.load_model(model_uri, model_config={key: _TOKENS})


def answer_of(model: Any, wrapper: str) -> str:
    """The loaded model's answer to one fixed question, by plain predict."""
    output: Any = model.predict(MESSAGES_INPUT if wrapper == "transformers" else PROMPT_INPUT)
    text = output[0]["choices"][0]["message"]["content"] if wrapper == "transformers" else output[0]
    return str(text).strip()
