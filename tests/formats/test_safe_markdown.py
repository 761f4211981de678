"""Safe Markdown: what a model wrote loads nothing and is no HTML, and code stays as it is."""

import pytest

from phi3kit.formats.safe_markdown import for_files, for_pages, outside_code


class TestForPages:
    def test_formulas_become_text_and_code_stays(self):
        text = "It costs $5 or $6.\n\n```sh\necho $HOME\n```\nand `$x` and ``a ` $y`` for $z"
        assert for_pages(text) == ("It costs \\$5 or \\$6.\n\n```sh\necho $HOME\n```\nand `$x` and ``a ` $y`` for \\$z")

    @pytest.mark.parametrize(
        "text",
        [
            "![x](http://127.0.0.1/x.png)",
            "`![x](http://127.0.0.1/x.png)`",
            "\\`![x](http://127.0.0.1/x.png)`",
            '<a title="`">![x](http://127.0.0.1/x.png)`',
            "<div>\n```\n</div>\n\n![x](http://127.0.0.1/x.png)",
            "```\n![x](http://127.0.0.1/x.png)",
        ],
    )
    def test_no_image_is_left_even_where_it_looks_like_code(self, text: str):
        assert "![" not in for_pages(text)
        assert "![" not in for_files(text)

    def test_nothing_else_changes(self):
        text = "# A headline\n\n- **bold** [link](https://example.org) <b>x</b>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
        assert for_pages(text) == text


class TestForFiles:
    def test_tags_become_text_outside_code(self):
        text = "<script>alert(1)</script> 1 < 2 `<b>`\n```html\n<p>\n```\n</div><!-- x --><?php"
        assert for_files(text) == (
            "\\<script>alert(1)\\</script> 1 < 2 `<b>`\n```html\n<p>\n```\n\\</div>\\<!-- x -->\\<?php"
        )


class TestOutsideCode:
    @pytest.mark.parametrize(
        ("text", "changed"),
        [
            ("x", "X"),
            ("", ""),
            ("~~~\nx\n~~~\nx", "~~~\nx\n~~~\nX"),
            ("````\nx\n```\nx\n````\nx", "````\nx\n```\nx\n````\nX"),
            ("```\nx", "```\nx"),
            ("``` x`y\nx", "``` X`Y\nX"),
            ("`x\n\nx` x", "`X\n\nX` X"),
            ("`x\nx` x", "`x\nx` X"),
            ("x\r\n```\r\nx\r\n```\r\nx", "X\r\n```\r\nx\r\n```\r\nX"),
            ("    ```\nx", "    ```\nX"),
            ("\\`x` x", "\\`X` X"),
        ],
    )
    def test_code_blocks_and_spans_are_left_alone(self, text: str, changed: str):
        assert outside_code(text, str.upper) == changed

    def test_100_000_characters_take_no_time(self):
        text = "`" * 50_000 + "x" * 50_000
        assert len(outside_code(text, str.upper)) == 100_000
