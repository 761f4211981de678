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

    @pytest.mark.parametrize(
        ("text", "page", "file"),
        [
            (
                "[a](`) ![x](https:&#47;&#47;evil.example/p.png)`",
                "[a]\\(`) !\\[x]\\(https:&#47;&#47;evil.example/p.png)`",
                "[a](`) !\\[x](https:&#47;&#47;evil.example/p.png)`",
            ),
            ("[a](/x '`') ![x](/y)`", "[a]\\(/x '`') !\\[x]\\(/y)`", "[a](/x '`') !\\[x](/y)`"),
            (
                "[a][`] ![x](/y)`\n\n[`]: /x",
                "[a][`] !\\[x]\\(/y)`\n\n[`]\\: /x",
                "[a][`] !\\[x](/y)`\n\n[`]: /x",
            ),
            ("http://a` ![x](/y)` `b`", "http://a` !\\[x]\\(/y)` `b`", "http://a` !\\[x](/y)` `b`"),
            ("[^`] ![x](/y)`\n\n[^`]: a", "[^`] !\\[x]\\(/y)`\n\n[^`]\\: a", "[^`] !\\[x](/y)`\n\n[^`]: a"),
        ],
    )
    def test_a_backtick_that_a_link_or_a_footnote_takes_begins_no_code(self, text: str, page: str, file: str):
        assert for_pages(text) == page
        assert for_files(text) == file

    @pytest.mark.parametrize("line", ["    ```", "\t```", "  \t```", "\xa0```", "```\u3000", "> ```", "```\xa0"])
    def test_what_closes_no_fence_for_commonmark_closes_none(self, line: str):
        text = f"```\n{line}\n```\n![x](/y) $\n<img>"
        assert for_pages(text) == f"```\n{line}\n```\n!\\[x]\\(/y) \\$\n\\<img>"
        assert for_files(text) == f"```\n{line}\n```\n!\\[x](/y) $\n&lt;img>"

    @pytest.mark.parametrize("line", ["<!--", "$$", ":::box"])
    def test_a_fence_behind_what_may_reach_over_fences_is_not_certain(self, line: str):
        text = f"- a\nb\n\n    {line}\n   ```\n   ![x](/y)\n"
        assert for_pages(text) == text.replace("![", "!\\[")

    @pytest.mark.parametrize("line", ["   ```", "```\t ", "````"])
    def test_what_closes_a_fence_closes_it(self, line: str):
        assert for_pages(f"```\n![x](/y)\n{line}\n![x](/y)") == f"```\n![x](/y)\n{line}\n!\\[x]\\(/y)"

    @pytest.mark.parametrize(
        "text",
        [
            "[docs](https://e.example/a) and `vec![1]`",
            "- [ ] `vec![1]`\n- see https://e.example: `x![2]` `C:\\x`",
            "See https://e.example/a, www.e.example `vec![1]`",
            "| `vec![1]` | b |\n|---|---|\n| 1 | `x![2]` |",
            "10. a\n\n    ```py\n    x\n    ```\n\nNext\n\n```rust\nvec![1]\n```",
        ],
    )
    def test_code_beside_links_lists_and_tables_is_certain(self, text: str):
        assert for_pages(text) == text
        assert for_files(text) == text

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("[lo](/auth/logout)", "[lo]\\(/auth/logout)"),
            ("[lo](auth/logout) [b](//e.example)", "[lo]\\(auth/logout) [b]\\(//e.example)"),
            ("[a](file:///etc) [b](data:text/html,x)", "[a]\\(file:///etc) [b]\\(data\\:text/html,x)"),
            ("[lo][a]\n\n> [a]: /auth/logout", "[lo][a]\n\n> [a]\\: /auth/logout"),
            ("<file:///etc> <http://a b>", "\\<file:///etc> \\<http://a b>"),
        ],
    )
    def test_links_to_this_app_and_to_files_become_text(self, text: str, shown: str):
        assert for_pages(text) == shown

    @pytest.mark.parametrize(
        "text",
        [
            "[a](https://e.example) [b](<HTTP://e.example/a>)",
            "<mailto:a@b.example>",
            "[^1] b\n\n[^1]: a note",
            "a: [b] (c)",
        ],
    )
    def test_links_to_the_web_and_footnotes_stay(self, text: str):
        assert for_pages(text) == text

    def test_control_characters_are_named_in_code_too(self):
        text = "a\x1b[2J\u202eb\tc\r\n`\u2066`\n\n```\n\x9b\x00\u2069\n```"
        assert for_pages(text) == ("a[U+001B][2J[U+202E]b\tc\r\n`[U+2066]`\n\n```\n[U+009B][U+0000][U+2069]\n```")

    def test_emoji_and_letters_of_every_direction_stay(self):
        assert for_pages("👩‍👧 می‌خواهم שלום") == "👩‍👧 می‌خواهم שלום"

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
            "&lt;script>alert(1)&lt;/script> 1 < 2 `<b>`\n```html\n<p>\n```\n&lt;/div>&lt;!-- x -->&lt;?php"
        )

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\\<img src=/y>", "&lt;img src=/y>"),
            ("\\\\<img src=/y>", "\\\\&lt;img src=/y>"),
            ("\\\\\\<img src=/y>", "\\\\&lt;img src=/y>"),
            ("[a](`) <img src=/y>`", "[a](`) &lt;img src=/y>`"),
            ("\\`a <b>`", "\\`a &lt;b>`"),
            ("1 < 2 <3 a<", "1 < 2 <3 a<"),
        ],
    )
    def test_no_tag_is_left_behind_a_backslash_or_where_code_is_not_certain(self, text: str, shown: str):
        assert for_files(text) == shown


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

    @pytest.mark.parametrize(
        "text",
        [
            "`" * 50_000 + "$" * 50_000,
            "".join("`" * n + "x" for n in range(1, 440)),
            "://" * 33_000 + " `a`",
            "\\" * 99_999 + "<b",
        ],
    )
    def test_100_000_characters_take_no_time(self, text: str):
        began = time.process_time()
        assert len(for_pages(text)) >= len(text)
        assert len(for_files(text)) >= len(text)
        assert time.process_time() - began < 4  # 0.3 s, and 9 s where a span may be of any length
