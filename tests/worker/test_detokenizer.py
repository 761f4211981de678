"""Detokenizer: the text of an answer, token by token, with the embedded model's tokenizer."""

import pytest
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.worker.detokenizer import Detokenizer

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
ROCKET = "🚀".encode()
TEXTS = (
    "The capital of Spain is Madrid.",
    "日本の首都は東京です。",
    "Η πρωτεύουσα είναι η Αθήνα.",
    "Lift off: 👩‍🚀🚀 and 🇬🇷!",
    "  two spaces\n\n\ttab, 𝒳 and a\0b ",
)


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def byte_ids(content: bytes) -> list[int]:
    """Byte tokens, which Phi-3's tokenizers have for characters that their vocabulary lacks."""
    return [TOKENIZER.token_to_id(f"<0x{byte:02X}>") for byte in content]


def pieces(ids: list[int], *stop: str) -> list[str]:
    """What each token gave, and last what was held back."""
    answer = Detokenizer(TOKENIZER, stop)
    return [*(answer.push(each) for each in ids), answer.finish()]


class TestPush:
    @pytest.mark.parametrize("text", TEXTS)
    def test_the_pieces_are_the_text_and_none_has_half_a_character(self, text: str):
        given = pieces(ids_of(text))
        assert "".join(given) == text
        assert "\ufffd" not in "".join(given)

    def test_a_character_is_given_with_its_last_byte(self):
        assert pieces(ids_of("Up") + byte_ids(ROCKET))[-5:] == ["", "", "", "🚀", ""]

    def test_special_tokens_are_no_text(self):
        specials = [TOKENIZER.token_to_id(token) for token in ("<|assistant|>", "<|end|>", "<|endoftext|>")]
        assert "".join(pieces([*ids_of("Hi"), *specials])) == "Hi"

    def test_a_byte_that_is_no_character_does_not_end_the_answer(self):
        text = "".join(pieces(byte_ids(b"\n\xe6") + ids_of("Madrid.")))
        assert text.startswith("\n\ufffd")
        assert text.endswith("Madrid.")


class TestGoingOn:
    """An answer that follows text, and not a special token."""

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_and_answer_are_the_whole_wherever_it_was_cut(self, text: str):
        ids = ids_of(text)
        for cut in range(1, len(ids)):
            begun = TOKENIZER.decode(ids[:cut])
            if begun.endswith("\ufffd"):  # cut inside a character
                continue
            answer = Detokenizer(TOKENIZER, (), [*ids_of("<|assistant|>\n"), *ids[:cut]])
            assert begun + "".join(answer.push(each) for each in ids[cut:]) + answer.finish() == text

    def test_behind_a_special_token_the_first_space_is_the_tokens_own(self):
        answer = Detokenizer(TOKENIZER, (), ids_of("<|user|>\nHi<|end|>\n<|assistant|>\n"))
        assert "".join(map(answer.push, ids_of("Hello there"))) == "Hello there"

    def test_a_broken_byte_behind_a_beginning_is_shown(self):
        answer = Detokenizer(TOKENIZER, (), ids_of("Up"))
        assert "".join(map(answer.push, byte_ids(ROCKET[:1]))) + answer.finish() == "\ufffd"


class TestStop:
    @pytest.mark.parametrize("text", TEXTS)
    def test_the_text_ends_before_any_stop_string_wherever_tokens_begin(self, text: str):
        ids = ids_of(text)
        for length in range(1, 8):
            for stop in {text[at : at + length] for at in range(len(text) - length + 1)}:
                assert "".join(pieces(ids, stop)) == text[: text.find(stop)], repr(stop)

    def test_the_beginning_of_a_stop_string_is_never_given(self):
        answer, given = Detokenizer(TOKENIZER, ["Madrid. Next"]), ""
        for each in ids_of("It is Madrid. Next question"):
            given += answer.push(each)
            assert "It is ".startswith(given)
        assert (given, answer.stopped) == ("It is ", True)

    def test_what_only_looked_like_a_stop_string_is_given_later(self):
        given = pieces(ids_of("It is Madrid. Nothing else"), "Madrid. Next")
        assert "".join(given) == "It is Madrid. Nothing else"

    def test_what_was_held_back_at_the_end_is_given_by_finish(self):
        given = pieces(ids_of("It is Madrid."), "Madrid. Next")
        assert ("".join(given[:-1]), given[-1]) == ("It is ", "Madrid.")

    def test_a_stop_string_of_half_characters_is_found_when_it_is_whole(self):
        given = pieces(ids_of("Up") + byte_ids(ROCKET) + ids_of("away"), "🚀")
        assert "".join(given) == "Up"

    def test_the_earliest_of_several_stop_strings_counts(self):
        assert "".join(pieces(ids_of("one two three"), "three", "two", "zero")) == "one "

    def test_a_prefix_that_begins_again_inside_itself_is_found(self):
        assert "".join(pieces(ids_of("aaab aab"), "aab")) == "a"

    def test_an_answer_that_begins_with_its_stop_string_is_empty(self):
        assert "".join(pieces(ids_of("Madrid."), "Mad")) == ""

    def test_nothing_is_given_behind_a_stop_string(self):
        answer = Detokenizer(TOKENIZER, ["."])
        for each in ids_of("Yes. No. Perhaps"):
            answer.push(each)
        assert (answer.stopped, answer.push(ids_of("More")[-1]), answer.finish()) == (True, "", "")


class TestFinish:
    def test_says_nothing_when_nothing_was_held_back(self):
        assert pieces(ids_of("Madrid."))[-1] == ""
        assert Detokenizer(TOKENIZER).finish() == ""

    @pytest.mark.parametrize("before", ["Up", "Up\n", "\n"])
    def test_shows_that_the_answer_broke_off_inside_a_character(self, before: str):
        begun = byte_ids(before.encode()) if before == "\n" else ids_of(before)
        given = "".join(pieces(begun + byte_ids(ROCKET[:3])))
        assert given.rstrip("\ufffd") == before
        assert given.endswith("\ufffd")
