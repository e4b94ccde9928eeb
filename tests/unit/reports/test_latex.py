"""Tables in LaTeX: what compiles, and what is marked."""

import re

import pytest

from uwc.reports.format import Table
from uwc.reports.latex import latex_text, to_latex

COMMANDS = {
    *("begin", "end", "centering", "caption", "label", "small", "toprule", "midrule", "bottomrule", "shortstack"),
    *("multicolumn", "cmidrule"),
    *("textbf", "scriptsize", "dagger", "pm", "times", "infty", "cdot", "le", "ge", "ldots"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"),
}
"""The commands that LaTeX and booktabs have."""
TOKEN = re.compile(r"\\([A-Za-z]+|.)|[{}$&#_^~%]|[^\\{}$&#_^~%]+", re.DOTALL)


def require_latex(text: str) -> None:
    """Assert that a table would compile: known commands and environments that are closed, braces and mathematics in
    pairs, as many cells in every row as columns, and no special character in the text."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    opened: list[str] = []
    columns, cells, inside = 0, 1, False
    for found in TOKEN.finditer(code):
        token, after = found[0], code[found.end() :]
        within_math = opened[-1:] == ["$"]
        if token in ("\\begin", "\\end"):
            (name,) = re.findall(r"^\{(\w+)\}", after)
            if token == "\\begin":
                opened.append(name)
                if name == "tabular":
                    columns = len(re.findall(r"^\{tabular\}\{([lrc]+)\}", after)[0])
            else:
                assert opened.pop() == name
        elif token == "\\multicolumn":
            cells += int(re.findall(r"^\{(\d+)\}\{c\}", after)[0]) - 1
        elif token == "{":
            opened.append("{")
        elif token == "}":
            assert opened.pop() == "{"
        elif token == "$":
            _ = opened.pop() if within_math else opened.append("$")
        elif token == "&":
            assert opened == ["table", "tabular"]
            cells += 1
        elif token == "\\\\":
            assert not re.match(r"\s*[\[*]", after), "an optional argument"
            if opened[-1] == "tabular":
                assert cells == columns
                cells, inside = 1, True
        elif token == "^":
            assert within_math
        elif token == "%":
            raise AssertionError("a comment in a line")
        elif token.startswith("\\"):
            assert found[1] in COMMANDS or found[1] in "{}%$&#_", token
        else:
            assert token == "~" or not re.search('[#_<>|"]', token), token
    assert not opened and inside and cells == 1


EVIL = r"a_b & 50% of $x$ #1 {z} ~ ^ \input{x} <b> | \" end]" + "\x1b \u00a0… ± × ∞ − ≥"


def test_special_characters_are_escaped_in_every_place() -> None:
    table = Table(EVIL, (EVIL, f"[{EVIL}]", "*"), ((EVIL, "1", EVIL), (f"[{EVIL}", "2", "*")), f"{EVIL}\n{EVIL}")
    text = to_latex(table, EVIL)
    require_latex(text)
    assert r"a\_b \& 50\% of \$x\$ \#1 \{z\}" in text and r"\textbackslash{}input\{x\}" in text and "\x1b" not in text
    assert all(line.startswith("%") for line in text[text.index(r"\end{table}") :].splitlines()[1:])


@pytest.mark.parametrize(
    "damage", [(r"\&", "&"), (r"\$", "$"), (r"\bottomrule", r"\bottomrule}"), (r"\%", "%"), (r"\_", "_")]
)
def test_the_parser_of_these_tests_refuses_what_does_not_compile(damage: tuple[str, str]) -> None:
    text = to_latex(Table("a & b_c $ 5%", ("a", "b"), (("x_y & z", "1"),)), "n").replace(*damage)
    with pytest.raises((AssertionError, IndexError)):
        require_latex(text)


def test_intervals_are_small_the_best_is_bold_and_ties_are_marked() -> None:
    rows = (("a", "-0.100 [-0.200, 0.000]"), ("b", "0.200 [0.100, 0.300]\n(+0.1)"), ("c", "—"))
    table = Table("t", ("model", "score"), rows, residual=1)
    lines = to_latex(table, "x y_z", best=[0], tied=[1]).splitlines()
    assert r"    a & \textbf{$-$0.100} {\scriptsize [$-$0.200, 0.000]} \\" in lines
    assert r"    b & 0.200$^{\dagger}$ {\scriptsize [0.100, 0.300]} {\scriptsize (+0.1)} \\" in lines
    assert r"    c & --- \\" in lines and r"  \begin{tabular}{lr}" in lines and r"  \label{tab:x-y-z}" in lines
    require_latex("\n".join(lines))
    assert "dagger" not in to_latex(table, "x", best=[0]) and "textbf" not in to_latex(table, "x")


def test_words_and_losses_are_text() -> None:
    assert latex_text("npo[-(2/beta) log p_0] |u| = 1") == r"npo[-(2/beta) log p\_0] \textbar{}u\textbar{} = 1"
    table = Table("t", ("method", "loss"), (("npo", "a[mean_t, b] - c"),))
    assert r"npo & a[mean\_t, b] - c \\" in to_latex(table, "t")


def test_groups_of_columns_have_a_line_and_rules() -> None:
    table = Table("t", ("model", "a", "b", "c"), (("x", "1", "2", "3"),), groups=(("", 1), ("as & is", 2), ("d", 1)))
    text = to_latex(table, "t")
    require_latex(text)
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{as \& is} & \multicolumn{1}{c}{d} \\" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
