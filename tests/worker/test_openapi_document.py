"""OpenAPI document: it drives a fuzzer, whose requests break nothing and are refused in one shape.

The fuzzer is imported by the test that uses it: no other process of the tests waits for it.
"""

import json
from typing import Any

import httpx2
import pytest

from phi3kit.core.records import Endpoint

ROUTES = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
FEW, MANY = 40, 250  # requests a route and mode; making one costs ten times what answering it does


@pytest.fixture(scope="module")
def document(onnx_endpoint: Endpoint) -> dict[str, Any]:
    """A worker's own document."""
    headers = {"Authorization": f"Bearer {onnx_endpoint.api_key}"}
    document: dict[str, Any] = httpx2.get(f"{onnx_endpoint.base_url}/openapi.json", headers=headers).json()
    return document


class TestDescription:
    def test_it_names_every_field_that_is_accepted(self, document: dict[str, Any]) -> None:
        chat = document["components"]["schemas"]["ChatRequest"]["properties"]
        assert {"messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "n"} <= set(chat)
        assert {"stop", "stream", "stream_options", "logprobs", "top_logprobs", "logit_bias"} <= set(chat)

    @pytest.mark.parametrize("path", ROUTES)
    def test_every_route_says_what_it_takes_and_how_it_refuses(self, document: dict[str, Any], path: str) -> None:
        route = document["paths"][path]["post"]
        name = route["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        assert document["components"]["schemas"][name]["type"] == "object"
        assert {"200", "400", "401", "413", "429"} <= set(route["responses"])

    def test_what_is_answered_and_streamed_is_what_it_describes(
        self, onnx_endpoint: Endpoint, document: dict[str, Any]
    ) -> None:
        import jsonschema

        headers = {"Authorization": f"Bearer {onnx_endpoint.api_key}"}
        http = httpx2.Client(base_url=onnx_endpoint.base_url, headers=headers, timeout=60)

        def check(path: str, answer: Any, kind: str = "application/json", method: str = "post") -> None:
            schema = document["paths"][path][method]["responses"]["200"]["content"][kind]["schema"]
            jsonschema.validate(answer, {**schema, "components": document["components"]})

        chat = {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 3,
            "n": 2,
            "logprobs": True,
            "top_logprobs": 2,
        }
        raw = {"prompt": ["Hi", "the"], "max_tokens": 3, "logprobs": 2, "echo": True}
        for path, body in (("/v1/chat/completions", chat), ("/v1/completions", raw)):
            check(path, http.post(path, json=body).json())
            more = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
            events = http.post(path, json=body | more).text.split("\n\n")
            assert events[-2:] == ["data: [DONE]", ""]
            for event in events[:-2]:
                check(path, json.loads(event.removeprefix("data: ")), "text/event-stream")
        tokens = http.post("/tokenize", json={"prompt": "Hi", "return_pieces": True}).json()
        check("/tokenize", tokens)
        check("/detokenize", http.post("/detokenize", json={"tokens": tokens["tokens"]}).json())
        models = http.get("/v1/models").json()
        check("/v1/models", models, method="get")
        model = http.get(f"/v1/models/{onnx_endpoint.model_uri}").json()
        check("/v1/models/{model_id}", model, method="get")
        assert [model] == models["data"]


@pytest.mark.parametrize("requests", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fitting", [True, False], ids=["fitting", "unfitting"])
@pytest.mark.parametrize("path", ROUTES)
def test_no_request_breaks_the_worker(
    onnx_endpoint: Endpoint, document: dict[str, Any], path: str, fitting: bool, requests: int
) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.core import NOT_SET
    from schemathesis.generation import GenerationMode

    mode = GenerationMode.POSITIVE if fitting else GenerationMode.NEGATIVE
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    seen: list[int] = []
    headers = {"Authorization": f"Bearer {onnx_endpoint.api_key}", "Content-Type": "application/json"}

    with httpx2.Client(base_url=onnx_endpoint.base_url, headers=headers, timeout=300) as http:

        @settings(
            max_examples=requests, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            body = case.body
            if fitting and path.startswith("/v1"):
                body = {**body, "max_tokens": 3}  # what is written is noise; it need not be long
                body.pop("max_completion_tokens", None)
            content = body if isinstance(body, bytes) else b"" if body is NOT_SET else json.dumps(body).encode()
            answer = http.post(path, content=content)
            seen.append(answer.status_code)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error"}
                assert set(answer.json()["error"]) == {"message", "type", "code", "param"}

        send()
    assert len(seen) >= requests * 0.9
    assert (
        requests == FEW or (200 if fitting else 400) in seen
    )  # few may all be refused: what is made depends on hashes
    assert httpx2.get(f"{onnx_endpoint.base_url}/health").json()["state"] == "ready"
