"""Word diff: what is the same, what is not, and that no character is lost."""

import itertools
import random
import time

import pytest

from phi3kit.formats.word_diff import Span, similarity, word_diff

SAMPLES = [
    "",
    " ",
    "\n\n",
    "The capital of Spain is Madrid.",
    "The capital of  Spain is\nMadrid, a city.",
    "スペインの首都はマドリードです。",
    "フランスの首都はパリです。",
    "<script>alert(1)</script> $x^2$ **bold** `code` :smile:",
    "<|user|>\nHi<|end|>\n<|assistant|>\n",
    "👩‍🚀 up\u3000wide\x1cfs\0",
    "one two three four five",
    "five four three two one",
]


def before_of(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans if span.kind != "added")


def after_of(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans if span.kind != "removed")


class TestWordDiff:
    def test_equal_texts_are_one_span(self) -> None:
        assert word_diff("The capital is Madrid.", "The capital is Madrid.") == (
            Span("same", "The capital is Madrid."),
        )

    def test_two_empty_texts_have_no_span(self) -> None:
        assert word_diff("", "") == ()

    def test_a_changed_word_is_removed_and_added(self) -> None:
        assert word_diff("The capital is Madrid.", "The capital is Paris.") == (
            Span("same", "The capital is "),
            Span("removed", "Madrid"),
            Span("added", "Paris"),
            Span("same", "."),
        )

    def test_the_space_behind_a_changed_word_is_no_change(self) -> None:
        assert word_diff("is Madrid today", "is Paris today") == (
            Span("same", "is "),
            Span("removed", "Madrid"),
            Span("added", "Paris"),
            Span("same", " today"),
        )

    def test_words_behind_the_end_are_added_and_the_word_before_them_stays(self) -> None:
        assert word_diff("It is Madrid", "It is Madrid now") == (
            Span("same", "It is Madrid"),
            Span("added", " now"),
        )

    def test_a_different_line_break_alone_is_seen(self) -> None:
        assert word_diff("a b", "a\nb") == (
            Span("same", "a"),
            Span("removed", " "),
            Span("added", "\n"),
            Span("same", "b"),
        )

    def test_scripts_without_spaces_are_compared_by_character(self) -> None:
        assert word_diff("首都はパリです", "首都は京です") == (
            Span("same", "首都は"),
            Span("removed", "パリ"),
            Span("added", "京"),
            Span("same", "です"),
        )

    def test_accents_and_contractions_do_not_cut_a_word_of_letters(self) -> None:
        assert word_diff("Η Αθήνα", "Η Πάτρα") == (
            Span("same", "Η "),
            Span("removed", "Αθήνα"),
            Span("added", "Πάτρα"),
        )

    @pytest.mark.parametrize("after", SAMPLES, ids=range(len(SAMPLES)))
    @pytest.mark.parametrize("before", SAMPLES, ids=range(len(SAMPLES)))
    def test_both_texts_can_be_put_together_from_the_spans(self, before: str, after: str) -> None:
        spans = word_diff(before, after)
        assert (before_of(spans), after_of(spans)) == (before, after)
        assert all(a.kind != b.kind for a, b in itertools.pairwise(spans))

    def test_texts_of_100000_characters_without_anything_in_common_take_less_than_two_seconds(self) -> None:
        draw = random.Random(5)
        before, after = (" ".join(draw.choice("abcdefgh") * draw.randint(1, 4) for _ in range(30_000)) for _ in "ab")
        assert min(len(before), len(after)) > 100_000
        began = time.process_time()
        spans = word_diff(before, after)
        assert time.process_time() - began < 2
        assert (before_of(spans), after_of(spans)) == (before, after)

    def test_the_longest_texts_that_are_compared_by_words_take_less_than_two_seconds(self) -> None:
        draw = random.Random(5)
        before, after = (" ".join(draw.choice("abcdefghijklmnop") for _ in range(1_999)) for _ in "ab")
        began = time.process_time()
        assert any(span.kind == "same" for span in word_diff(before, after))
        assert time.process_time() - began < 2

    def test_long_texts_of_lines_that_are_often_equal_are_told_apart_as_a_whole(self) -> None:
        draw = random.Random(5)  # 10 s of processor time for 200,000 characters, and quadratic
        before, after = ("\n".join(str(draw.randrange(150)) for _ in range(60_000)) for _ in "ab")
        began = time.process_time()
        spans = word_diff(f"first\n{before}", f"first\n{after}")
        assert time.process_time() - began < 5
        assert [span.kind for span in spans] == ["same", "removed", "added"]
        assert (before_of(spans), after_of(spans)) == (f"first\n{before}", f"first\n{after}")

    def test_long_texts_with_many_empty_lines_are_compared_by_lines(self) -> None:
        lines = [line for number in range(5_000) for line in (f"line {number} is one of many", "")]
        changed = [*lines[:4_000], "another line", *lines[4_001:8_000], "one more", *lines[8_001:]]
        differing = [span.text for span in word_diff("\n".join(lines), "\n".join(changed)) if span.kind == "added"]
        assert [text.strip() for text in differing] == ["another line", "one more"]

    def test_long_texts_that_differ_in_one_word_still_name_that_word(self) -> None:
        words = [f"word{number}" for number in range(20_000)]
        changed = [*words[:9_000], "changed", *words[9_001:]]
        differing = [span for span in word_diff(" ".join(words), " ".join(changed)) if span.kind != "same"]
        assert differing == [Span("removed", "word9000"), Span("added", "changed")]


class TestSimilarity:
    def test_it_is_the_share_of_common_characters(self) -> None:
        assert similarity(word_diff("ab cd", "ab ef")) == pytest.approx(2 * 3 / 10)

    def test_equal_and_empty_texts_are_wholly_alike(self) -> None:
        assert similarity(word_diff("a b", "a b")) == similarity(word_diff("", "")) == 1.0
