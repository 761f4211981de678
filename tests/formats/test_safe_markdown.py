"""Safe Markdown: what a model wrote loads nothing and is no HTML, and code stays as it is."""

import time

import pytest

from phi3kit.formats.safe_markdown import for_files, for_pages


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
        ],
    )
    def test_no_image_is_left_even_where_it_looks_like_code(self, text: str):
        assert "![" not in for_pages(text)
        assert "![" not in for_files(text)

    def test_nothing_else_changes(self):
        text = (
            "# A headline\n\n- **bold** [link](https://example.org/a:b) <https://x.org>\n\n| a | b |\n|--|:--:|\n| 1 | 2 |\n"
            "\n---\n\n[x]: http://a/b:c\nNote: at 10 https://e.org/Help:Contents a->b, a---b, x=1 \\*no\\*\n"
        )
        assert for_pages(text) == text

    @pytest.mark.parametrize(
        ("text", "changed"),
        [
            ("a -> b <-> c", "a :color[\\-]\\> b \\<:color[\\-]\\> c"),
            ("**>=**", "**\\>:color[\\=]**"),
            ("| -- | x |", "| :color[\\-]\\- | x |"),
            (":smile: a:b:c", "\\::color[s]mile: a\\::color[b]\\:c"),
            (":red[x] std::map[1] ::x", "\\:red[x] std\\:\\:map[1] \\:\\:x"),
            (
                ":material/home: :material_home: :streamlit:",
                "\\:material\\/home: \\::color[m]aterial_home: \\::color[s]treamlit:",
            ),
            ("\\:red[x] \\$5$ \\\\$6", "\\:red[x] \\$5\\$ \\\\\\$6"),
            ("<p>$5</p>", "\\<p>\\$5\\</p>"),
        ],
    )
    def test_what_only_streamlit_reads_becomes_text(self, text: str, changed: str):
        assert for_pages(text) == changed

    @pytest.mark.parametrize(
        "code",
        [
            "`let v = vec![1] -> :b: $x`",
            "```rust\nlet v = vec![1]; // -> <b>\n```",
            "1. one\n\n   ```py\n   x![1] -> $y\n   ```",
        ],
    )
    def test_code_stays_as_it_is(self, code: str):
        assert for_pages(code) == code
        assert for_files(code) == code

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("- a\n  ```\n", ""),
            ("> ```\n", ""),
            ("- a\nb\n  ```\n", ""),
            ("para\n    ```\n    ", ""),
            ("1. a\n\n   ```\n      ```\n   ", ""),
            ("\\\\`a` ", " `b`"),
            ("- `a\n- b` ", " `c`"),
            ("<http://`>", "`"),
            ("http://a/` ", "`"),
            ("| `a | ", "` |"),
        ],
    )
    def test_an_image_behind_what_ends_the_code_is_none(self, before: str, after: str):
        text = f"{before}![x](http://127.0.0.1/x.png){after}"
        assert "![" not in for_pages(text)
        assert "![" not in for_files(text)


class TestForFiles:
    @pytest.mark.parametrize("text", ["<div>\n```\n</div>\n\n$", "`x\n<div>`\n```\n\n$"])
    def test_no_tag_at_the_beginning_of_a_line_hides_where_code_begins(self, text: str):
        assert "\n<div" not in f"\n{for_files(text)}"
        assert "\n<div" not in f"\n{for_pages(text)}"

    def test_tags_become_text_outside_code(self):
        text = "<script>alert(1)</script> 1 < 2 `<b>`\n```html\n<p>\n```\n</div><!-- x --><?php"
        assert for_files(text) == (
            "\\<script>alert(1)\\</script> 1 < 2 `<b>`\n```html\n<p>\n```\n\\</div>\\<!-- x -->\\<?php"
        )


class TestWhereCodeIs:
    @pytest.mark.parametrize(
        ("text", "changed"),
        [
            ("$", "\\$"),
            ("", ""),
            ("~~~\n$\n~~~\n$", "~~~\n$\n~~~\n\\$"),
            ("````\n$\n```\n$\n````\n$", "````\n$\n```\n$\n````\n\\$"),
            ("```\n$", "```\n$"),
            ("``` $`$\n$", "``` \\$`\\$\n\\$"),
            ("`$\n\n$` $", "`\\$\n\n\\$` \\$"),
            ("`$\n$` $", "`$\n$` \\$"),
            ("$\r\n```\r\n$\r\n```\r\n$", "\\$\r\n```\r\n$\r\n```\r\n\\$"),
            ("a\n    ```\n$", "a\n    ```\n\\$"),
            ("\\`$` $", "\\`\\$` \\$"),
            ("a\n\n    $\n\nb $", "a\n\n    $\n\nb \\$"),
            ("- a\n\n    $\n\n      $", "- a\n\n    \\$\n\n      $"),
            ("- a\n\n      ```\n      $\n      ```\n  $", "- a\n\n      ```\n      $\n      ```\n  \\$"),
            ("> ```\n> $\n$", "> ```\n> $\n\\$"),
        ],
    )
    def test_code_blocks_and_spans_are_left_alone(self, text: str, changed: str):
        assert for_pages(text) == changed

    @pytest.mark.parametrize("text", ["`" * 50_000 + "$" * 50_000, "".join("`" * n + "x" for n in range(1, 440))])
    def test_100_000_characters_take_no_time(self, text: str):
        began = time.process_time()
        assert len(for_pages(text)) >= len(text)
        assert time.process_time() - began < 4  # 0.3 s, and 9 s where a span may be of any length
