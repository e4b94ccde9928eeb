"""Texts in Markdown read as they are, whatever marks they hold."""

import pytest

from uwc.reports.format import Table, markdown_code, markdown_text, to_markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extraction_strength is 0.10 [0.06, 0.16]; 95 % | n", "extraction_strength is 0.10 [0.06, 0.16]; 95 % | n"),
        ("*a* _b_ `c` ~~d~~ \\", "\\*a\\* \\_b\\_ \\`c\\` \\~\\~d\\~\\~ \\\\"),
        ("[click](http://x) ![i](y)", "[click\\](http://x) ![i\\](y)"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y>"),
        ("a title\n# another\r\n- list", "a title # another - list"),
        ("\x1b[2J\u202e", "\\\\x1b[2J\\\\u202e"),
    ],
)
def test_marks_are_escaped(text: str, expected: str) -> None:
    assert markdown_text(text) == expected


def test_code_ends_where_its_text_ends() -> None:
    assert markdown_code("plain/path") == "`plain/path`"
    assert markdown_code("a`b``c") == "``` a`b``c ```"


def test_a_table_keeps_its_cells() -> None:
    table = Table(title="a\n# b", columns=("n_1", "<b>"), rows=(("x|y", "*"),), caption="`c`")
    assert to_markdown(table) == ("### a<br># b\n\n| n_1 | &lt;b> |\n| --- | --- |\n| x\\|y | \\* |\n\n- \\`c\\`\n")
