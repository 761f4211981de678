# mypy: ignore-errors
"""MLflow's deployments client, which takes key and base URL from the environment and does not stream."""

import os

from mlflow.deployments import get_deploy_client
from questions import BASE_URL, FIRST, KEY, MODEL, SECOND, tell

os.environ |= {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": BASE_URL}
client = get_deploy_client("openai")
messages = [{"role": "user", "content": FIRST}]
answer = client.predict(endpoint=MODEL, inputs={"messages": messages})["choices"][0]["message"]
kept = [*messages, answer, {"role": "user", "content": SECOND}]
second = client.predict(endpoint=MODEL, inputs={"messages": kept})
tell(answer["content"], None, second["choices"][0]["message"]["content"])
