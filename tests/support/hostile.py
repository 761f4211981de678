"""Texts that Markdown, Streamlit or a browser would make something of."""

HOSTILE = [
    "plain text, with signs: a.b, (c) + d = e!",
    "<script>document.title = 'pwned'</script><b>bold</b>",
    "<img src=http://127.0.0.1:9/x.png onerror=alert(1)>",
    "![x](http://127.0.0.1:9/x.png) [link](http://127.0.0.1:9/)",
    "http://example.invalid www.example.invalid a@example.invalid mailto:a@b.cd <https://a.invalid>",
    "$x^2$ and $$y$$ \\(z\\) \\[w\\]",
    "a :smile: b :+1: :material/home: :streamlit: :red[hi] :violet-badge[x]",
    ":material_home: a:b:c :100: :-1: :streamlit: and `:b:`",
    "# head",
    "- list",
    "1. one",
    "> quote",
    "* * *",
    "| a | b |",
    "**b** _i_ `c` ~~s~~ ^[note] [^1] ~x~",
    "```\ncode\n```",
    "&amp; &lt; &#65; &nbsp;",
    "a]b[c ] [ : :red[ ` $ * ** \\ trailing \\",
    "--- -> <- -- <-> >= <= ~= a -> b",
    "a  b   c",
    "a\nb\n\nc",
    "a \n b",
    "<|user|>\nHi<|end|>\n<|assistant|>",
    "日本の首都は？ Αθήνα 👩‍👧 é́",
    "HTTPS://e.invalid/a?b#c (www.e.invalid) Www.e.invalid x.y+z@e.invalid, _@e.invalid",
]

# What a model may answer, and how a page shows it.
ANSWERS = {
    "a -> b, c -- d, e >= f, **<->** and ~= g": "a -> b, c -- d, e >= f, <-> and ~= g",
    ":smile: a:b:c `:b:` :red[x] std::map[1] :help[x]": ":smile: a:b:c :b: :red[x] std::map[1] :help[x]",
    ":material/home: :material_home: :streamlit: `:smile:`": ":material/home: :material_home: :streamlit: :smile:",
    "It costs $5 or $6; `vec![1]` and $$x$$": "It costs $5 or $6; vec![1] and $$x$$",
    "<div>$5 -> :b:</div>": "<div>$5 -> :b:</div>",
    "::leaf[x]\n\n:::box\ntext\n:::": "::leaf[x]\n\n:::box text :::",
    "https://e.invalid/Help:Contents_1 **b** \\*c\\*": "https://e.invalid/Help:Contents_1 b *c*",
    "| a | b |\n|--|:-:|\n| -> | :b: |": "a b\n-> :b:",
    "[a](/auth/logout) [b][c] <https://e.invalid>\n\n[c]: /x": "[a](/auth/logout) [b][c] https://e.invalid\n\n[c]: /x",
    "[a](https://e.invalid '`') ![x](http://127.0.0.1:9/a.png)`": "a ![x](http://127.0.0.1:9/a.png)`",
    "```\n    ```\n```\n![x](http://127.0.0.1:9/b.png)": "```\n\n![x](http://127.0.0.1:9/b.png)",
}
