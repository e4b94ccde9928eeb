"""Figures as SVG and PDF: the same bytes every time, names and tooltips, the page's colours, ids that differ."""

import re
from xml.etree import ElementTree

import matplotlib
import pytest
from tests.helpers.results_factory import changed_run, study_results

from uwc.reports.drawing import Drawing, cut
from uwc.reports.figures import ranking_figure, tradeoff_figure

SVG = "{http://www.w3.org/2000/svg}"


def ranking() -> Drawing:
    drawing = ranking_figure(study_results())
    assert drawing is not None
    return drawing


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_file_has_the_same_bytes_whatever_the_users_style(kind: str) -> None:
    first = ranking().file(kind)  # type: ignore[arg-type]
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.edgecolor": "red"}):
        assert ranking().file(kind) == first  # type: ignore[arg-type]
    assert dict(matplotlib.rcParams) == before
    assert b"Date" not in first


def test_an_inline_figure_is_an_image_with_a_name_text_and_tooltips() -> None:
    root = ElementTree.fromstring(ranking().inline("ranking"))
    assert root.get("role") == "img" and "Residual forget ES of 5 models" in root.get("aria-label", "")
    assert root.get("viewBox") and not {"width", "height"} & {*root.keys()}
    assert {"npo", "gd", "kl", "po", "ga"} <= {text.text for text in root.iter(f"{SVG}text")}
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert len(titles) == 5 and titles[0].startswith("1. npo: 0.040 [0.000, 0.090]")


def test_the_page_gives_the_colours_of_ink_and_models_keep_theirs() -> None:
    text = tradeoff_figure(study_results()).inline("a")
    assert "var(--ink)" in text and "var(--grid)" in text and "var(--paper)" in text
    assert "#0072b2" in text and not re.search("#(1c1c1c|e8e8e8|6b6b6b|ffffff|000000)", text)


def test_two_figures_of_a_page_share_no_id() -> None:
    first, second = (set(re.findall(r'\bid="(.*?)"', ranking().inline(name))) for name in ("a", "b"))
    assert first and len(first) == len(second) and not first & second
    used = set(re.findall(r'(?:href="|url\()#(.*?)["\)]', ranking().inline("a")))
    assert used == first


def test_names_are_shown_as_they_are_and_long_ones_are_cut() -> None:
    name = "$x^2$ <b> & \x1b\uffff" + "n" * 60
    text = tradeoff_figure(changed_run(study_results(), "npo", name=name)).inline("a")
    root = ElementTree.fromstring(text)
    assert cut(name) in {t.text for t in root.iter(f"{SVG}text")} and len(cut(name)) == 34
    assert any(
        "n" * 60 in (title.text or "") and "$x^2$ <b> & \\x1b" in title.text for title in root.iter(f"{SVG}title")
    )
