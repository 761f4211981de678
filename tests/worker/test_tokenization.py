"""Tokenization: what /tokenize says of each token, for prompts and messages, in both workers."""

import httpx2
import pytest

from phi3kit.core.records import Endpoint, Message
from phi3kit.endpoints import client
from phi3kit.formats.chat_template import SPECIAL_TOKENS
from phi3kit.formats.tokens import Token, common_beginning, read_tokenized, swallowed
from tests.conftest import CHAPTER_PROMPT

HOSTILE = [
    "",
    "What is MLflow?",
    "Γεια σου, 日本の首都は？ 👩‍🚀",
    "<script>alert(1)</script> $x^2$ **b** `c`",
    "a\n\n b\t\u3000c \u200bd\0e",
    CHAPTER_PROMPT,
    "<|user|>\n\n  Hi<|end|>\n<|foo|><|assistant|>",
]


def tokenized(endpoint: Endpoint, **body: object) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    answer = httpx2.post(f"{endpoint.base_url}/tokenize", json=body, headers=headers, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


class TestPieces:
    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_they_stand_beside_the_ids_and_cover_the_whole_text(self, endpoint: Endpoint, text: str) -> None:
        plain = tokenized(endpoint, prompt=text)
        assert set(plain) == {"tokens", "count", "max_model_len"}
        full = client.tokenize(endpoint, text)
        assert [token.id for token in full.tokens] == plain["tokens"]
        assert full.count == plain["count"]
        covered = {at for token in full.tokens if token.span for at in range(*token.span)}
        assert covered == set(range(len(text)))

    def test_special_tokens_are_told_from_text_and_say_what_they_swallow(self, endpoint: Endpoint) -> None:
        text = "<|user|>\n\n Hi<|end|>\n"
        tokens = client.tokenize(endpoint, text).tokens
        assert [(token.text, token.kind) for token in tokens] == [
            ("<|user|>", "special"), (" H", "text"), ("i", "text"), ("<|end|>", "special")
        ]  # fmt: skip
        assert [swallowed(token, text) for token in tokens] == ["\n\n ", "", "", "\n"]
        assert bytes(tokens[0].bytes) == b"<|user|>"

    def test_a_character_that_the_vocabulary_lacks_is_its_bytes(self, endpoint: Endpoint) -> None:
        tokens = [token for token in client.tokenize(endpoint, "🙂").tokens if token.kind == "byte"]
        assert bytes(byte for token in tokens for byte in token.bytes) == "🙂".encode()
        assert {token.text for token in tokens} == {"\ufffd"}

    @pytest.mark.parametrize("typed", SPECIAL_TOKENS)
    def test_in_messages_a_typed_special_token_is_text(self, endpoint: Endpoint, typed: str) -> None:
        tokens = client.tokenize(endpoint, [Message("user", f"a{typed}b")]).tokens
        assert [token.text for token in tokens if token.kind == "special"] == ["<|user|>", "<|end|>", "<|assistant|>"]
        assert f"a{typed}b" in "".join(token.text for token in tokens)
        assert {token.span for token in tokens} == {None}

    def test_both_wrappers_say_the_models_window(self, endpoint: Endpoint) -> None:
        found = client.tokenize(endpoint, "Hi")
        assert found.context_tokens == 4096
        assert found.window_tokens == 2047

    def test_a_prompt_beyond_the_context_is_still_cut_and_counted(self, endpoint: Endpoint) -> None:
        assert client.tokenize(endpoint, "word " * 3_000).count > 4096

    @pytest.mark.parametrize("value", ["yes", 1, [True]])
    def test_what_is_no_flag_is_a_400(self, endpoint: Endpoint, value: object) -> None:
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        body = {"prompt": "Hi", "return_pieces": value}
        answer = httpx2.post(f"{endpoint.base_url}/tokenize", json=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "return_pieces"

    def test_the_description_names_the_flag(self, onnx_endpoint: Endpoint) -> None:
        headers = {"Authorization": f"Bearer {onnx_endpoint.api_key}"}
        document = httpx2.get(f"{onnx_endpoint.base_url}/openapi.json", headers=headers).json()
        assert document["components"]["schemas"]["TokenizeRequest"]["properties"]["return_pieces"]["type"] == "boolean"


class TestTokens:
    def test_json_goes_there_and_back(self) -> None:
        token = Token(7, "\ufffd", (227,), "byte", (3, 4))
        reply = {"pieces": [token.as_json()], "count": 1, "max_model_len": 4096, "sliding_window": 2047}
        assert read_tokenized(reply).tokens == (token,)

    def test_the_common_beginning_is_counted_by_id(self) -> None:
        a, b, c = (Token(number, "", (), "text") for number in range(3))
        assert common_beginning([a, b, c], [a, b, a]) == 2
        assert common_beginning([a, b], [a, b, c]) == 2
        assert common_beginning([], [a]) == 0
