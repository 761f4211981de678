"""Turn fields: the fields of a TurnRecord that its run keeps as metrics, params and tags.

Knows names. Imports nothing, so that a worker that writes turns loads no store that reads them.
"""

METRICS = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens", "time_to_first_token_s", "duration_s",
    "tokens_per_second",
)  # fmt: skip
PARAMS = ("temperature", "max_tokens", "top_p", "seed")
TAGS = (
    "wrapper", "interface", "origin", "user", "finish_reason", "error_code", "model_uri", "conversation_id", "turn_id",
    "prompt_key", "tokens_counted",
)  # fmt: skip
