"""Literal and diffing: text as Markdown that stays text. The browser test looks at what is drawn."""

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.formats.word_diff import Span, word_diff
from phi3kit.ui.shared.literal import literal, named
from phi3kit.ui.shared.text_diff import diff_markdown


class TestLiteral:
    def test_words_stay_as_they_are(self) -> None:
        assert literal("Madrid, 首都 Αθήνα") == "Madrid\\, 首都 Αθήνα"

    @pytest.mark.parametrize("sign", list("<>[]()*_`~$#|:\\!&-+=."))
    def test_every_sign_that_markdown_reads_is_escaped(self, sign: str) -> None:
        assert literal(f"a{sign}b") == f"a\\{sign}b"

    def test_line_breaks_are_hard_and_the_last_one_too(self) -> None:
        assert literal("a\nb\r\nc\n") == "a\\\nb\\\nc\\\n&nbsp;"

    def test_spaces_that_markdown_would_swallow_are_kept(self) -> None:
        assert literal(" a  b ") == "&nbsp;a&nbsp; b&nbsp;"

    def test_in_the_midst_of_a_line_its_ends_may_break(self) -> None:
        assert literal(" a  b\n c ", inside=True) == " a&nbsp; b\\\n&nbsp;c "

    def test_invisible_characters_are_named(self) -> None:
        assert named("a\u200bb\0\u202e") == "a[U+200B]b[U+0000][U+202E]"

    def test_a_lone_surrogate_can_be_drawn(self) -> None:
        assert literal("\ud83d").encode() == b"\\[U\\+D83D\\]"

    def test_signs_that_streamlit_joins_are_kept_apart(self) -> None:
        assert literal("a -> b :b: +1") == "a :color[\\-]\\> b \\::color[b]\\: \\+1"

    def test_addresses_are_kept_apart_and_so_no_links(self) -> None:
        assert literal("https://e.example") == "https\\::color[\\/]\\/e\\.example"
        assert literal("(WWW.e.example)") == "\\(WWW:color[\\.]e\\.example\\)"
        assert literal("a@b.example @ c") == "a:color[\\@]b\\.example :color[\\@] c"


class TestDiffMarkdown:
    def test_removed_words_are_struck_through_and_added_ones_have_a_colour(self) -> None:
        assert diff_markdown(word_diff("is Madrid", "is Paris")) == (
            "is&nbsp;:red-background[~~Madrid~~]:blue-background[Paris]"
        )

    def test_a_colour_ends_before_a_line_break_which_is_marked(self) -> None:
        assert diff_markdown([Span("added", "a\nb")]) == ":blue-background[a↵]\\\n:blue-background[b]"

    def test_white_space_alone_is_made_visible(self) -> None:
        assert diff_markdown([Span("removed", "  ")]) == ":red-background[~~␣␣~~]"

    def test_a_bracket_does_not_end_the_colour(self) -> None:
        assert diff_markdown([Span("added", "a]b")]) == ":blue-background[a\\]b]"


def long_diff() -> None:
    from phi3kit.ui.shared.text_diff import show_diff

    show_diff("word " * 9_000, "word " * 4_000 + "other " * 5_000, key="long")


class TestShowDiff:
    def test_of_a_long_diff_a_part_is_drawn_and_the_rest_on_demand(self) -> None:
        app = AppTest.from_function(long_diff, default_timeout=300).run()
        (rest,) = app.checkbox
        assert "characters too" in rest.label
        assert len(app.markdown[-1].value) < 30_000
        rest.check().run()
        assert app.markdown[-1].value.count("other") == 5_000
