"""A figure as vector graphics: inline in the report's page, in the page's colours, or as an SVG or PDF file."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil
from typing import Literal
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uwc.errors import printable
from uwc.reports.format import known, number
from uwc.results import MetricInfo

# Okabe and Ito's colours, which differ in any colour vision; without their yellow, too pale on white, and black.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
SYMBOLS = ("o", "s", "D", "^", "v", "p", "P")
DASHES = ("--", ":", "-.", (0, (7, 2)))
INK, FAINT, GRID, AXIS, PAPER = "#1c1c1c", "#6b6b6b", "#e8e8e8", "#b0b0b0", "#ffffff"
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", AXIS: "--axis", PAPER: "--paper"}
"""Colour of a figure -> the variable of the page that replaces it, which is another one in the dark."""

WIDTH, SMALL = 440, 320
"""Widths in points of a figure and of a small one, such that their text can be read on a phone."""
LONGEST = 34
"""The most characters of a name in a figure; tooltips and tables have all."""

_BELOW = 44
"""The margin below a figure's axes, for its ticks and label."""

Kind = Literal["svg", "pdf"]
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": AXIS,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "uwc",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": AXIS,
    "xtick.labelcolor": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": AXIS,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def styled(size: float = 12) -> Iterator[None]:
    """The style of all figures, whatever the user's configuration of matplotlib; also a decorator."""
    with matplotlib.style.context(["default", {**_STYLE, "font.size": size}]):
        yield


@dataclass
class Drawing:
    """A figure with its name for readers that cannot see it, and the tooltips of its markers.

    Attributes:
        figure: the figure.
        name: what it shows, in a sentence.
        scaled: whether the page scales it to its width; a wide one is scrolled.
    """

    figure: Figure
    name: str
    scaled: bool = True
    _tips: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def blank(cls, width: int, height: int, name: str, *, parts: int = 1, left: float = 60) -> "Drawing":
        """A figure of so many parts, one above the other over the same horizontal axis.

        Args:
            width, height: its size in points.
            name: what it shows.
            parts: the number of parts.
            left: the margin in points for the labels of the vertical axes.
        """
        drawing = cls(Figure(figsize=(width / 72, height / 72)), name)
        drawing.figure.subplots(parts, sharex=True)
        drawing._arrange(width, height, left, _BELOW)
        return drawing

    def _arrange(self, width: float, height: float, left: float, below: float) -> None:
        self.figure.set_size_inches(width / 72, height / 72)
        above, right = 1 - 26 / height, 1 - 14 / width
        self.figure.subplots_adjust(left / width, below / height, right, above, hspace=0.12)

    @property
    def axes(self) -> Axes:
        """The uppermost part."""
        return self.figure.axes[0]

    def tip(self, line: Artist, texts: Sequence[str]) -> None:
        """Show a text when the pointer is on a marker of a line, one for each marker that is drawn."""
        name = f"tip{len(self._tips)}"
        line.set_gid(name)
        self._tips[name] = [plain(text, lines=True) for text in texts]

    def tips(self, line: Artist) -> list[str]:
        """The tooltips of a line."""
        return self._tips.get(line.get_gid() or "", [])

    def curve(
        self,
        axes: Axes,
        points: Iterable[tuple[float, float]],
        name: str,
        colour: str,
        symbol: str,
        *,
        dash: str = "-",
        what: str = "",
    ) -> Line2D:
        """Draw a line with a marker, and a tooltip, at each point whose y is known.

        Args:
            axes: where.
            points: (x, y).
            name: of the line.
            colour, symbol, dash: its look.
            what: the word before x in a tooltip, such as "block ".
        """
        there = [(x, y) for x, y in points if known(y)]
        (line,) = axes.plot(
            [x for x, _ in there],
            [y for _, y in there],
            color=colour,
            linewidth=2,
            linestyle=dash,
            marker=symbol,
            markersize=5,
            label=cut(name),
        )
        self.tip(line, [f"{name}\n{what}{x:g}: {number(y)}" for x, y in there])
        return line

    def legend(self, lines: Sequence[Line2D], size: float = 12) -> None:
        """Name the lines below the figure, in rows, and make room for it."""
        names = [str(line.get_label()) for line in lines]
        width, height = (72 * float(side) for side in self.figure.get_size_inches())
        fitting = max(1, int(width // (32 + 0.6 * size * max(map(len, names)))))
        rows = ceil(len(names) / fitting)
        columns = ceil(len(names) / rows)
        order = [i for first in range(columns) for i in range(first, len(names), columns)]
        self.figure.legend(
            [lines[i] for i in order],
            [names[i] for i in order],
            loc="lower left",
            ncols=columns,
            fontsize=size,
            handlelength=1.8,
            columnspacing=1.4,
            labelspacing=0.4,
        )
        needed = 1.5 * size * rows + 6
        self._arrange(width, height + needed, width * self.figure.subplotpars.left, _BELOW + needed)

    def file(self, kind: Kind) -> bytes:
        """The file of the figure, the same bytes every time.

        Warns:
            UserWarning: the font of a PDF lacks a character.
        """
        metadata = {
            "svg": {"Date": None, "Creator": None, "Title": plain(self.name)},
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Title": plain(self.name)},
        }
        written = BytesIO()
        with styled(), warnings.catch_warnings():
            if kind == "svg":  # its text stays text
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.figure.savefig(written, format=kind, metadata=metadata[kind])
        return written.getvalue()

    def inline(self, identifier: str) -> str:
        """The figure as an element of the page, in the page's font and colours; its ids begin with `identifier`."""
        root = ElementTree.fromstring(self.file("svg"))
        for group, texts in self._tips.items():
            (drawn,) = root.iterfind(f".//{_SVG}g[@id='{group}']")
            for marker, text in zip(drawn.iter(f"{_SVG}use"), texts, strict=True):
                ElementTree.SubElement(marker, f"{_SVG}title").text = text
        for element in root.iter():
            _adapt(element, identifier)
        for child in list(root):
            if child.tag.endswith(("}metadata", "}title")) or child.find(f"{_SVG}style") is not None:
                root.remove(child)
        _flatten(root)
        width = root.attrib.pop("width").removesuffix("pt")
        for name in ("height", "version"):
            del root.attrib[name]
        root.attrib |= {"role": "img", "aria-label": plain(self.name), "class": "scaled" if self.scaled else "wide"}
        if not self.scaled:
            root.set("style", f"width: {width}px")
        ElementTree.register_namespace("", _SVG[1:-1])
        ElementTree.register_namespace("xlink", _LINK[1:-5])
        return ElementTree.tostring(root, encoding="unicode")


def plain(text: str, *, lines: bool = False) -> str:
    """A text that XML can hold, on one line unless `lines`."""
    shown = "\n".join(" ".join(line.split()) for line in text.splitlines()) if lines else " ".join(text.split())
    return re.sub("[\ufffe\uffff]", "", printable(shown))


def cut(name: str, longest: int = LONGEST) -> str:
    """A name for a label, without its middle if it is long."""
    name = plain(name)
    end = longest // 3
    return name if len(name) <= longest else f"{name[: longest - end - 1]}…{name[-end:]}"


_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_LONG = re.compile(r"-?\d+\.\d{3,}")
_WRITTEN = re.compile("|".join(VARIABLES))


def _adapt(element: ElementTree.Element, identifier: str) -> None:
    """Shorten the numbers of an element, and give it the colours and font of the page and ids of its own."""
    given = element.attrib
    for name in given.keys() & {"d", "x", "y", "transform"}:
        given[name] = _LONG.sub(lambda found: f"{float(found[0]):.2f}", given[name].replace("\n", ""))
    if (turned := given.get("transform", "")).startswith(("rotate(-0 ", "rotate(0 ")):
        del given["transform"], turned
    if "style" in given:
        style = re.sub(r"font-family: [^;]*;? ?|stroke-linecap: butt;? ?", "", given["style"]).rstrip("; ")
        given["style"] = _WRITTEN.sub(lambda found: f"var({VARIABLES[found[0]]})", style)
    if element.tag in (f"{_SVG}path", f"{_SVG}clipPath") and "id" in given:
        given["id"] = f"{identifier}-{given['id']}"
    else:
        given.pop("id", None)
    if _LINK in given:
        given[_LINK] = f"#{identifier}-{given[_LINK][1:]}"
    if "clip-path" in given:
        given["clip-path"] = given["clip-path"].replace("#", f"#{identifier}-")
    element.tail = None
    if element.text and not element.text.strip():
        element.text = None


def _flatten(element: ElementTree.Element) -> None:
    """Replace groups without attributes by their content."""
    for child in element:
        _flatten(child)
    element[:] = [
        inner for child in element for inner in (child if child.tag == f"{_SVG}g" and not child.attrib else [child])
    ]


_TENTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]


def share_axis(axes: Axes, which: Literal["x", "y"], title: str) -> None:
    """Make an axis from 0 to 1."""
    titled(axes, which, title)
    axes.set(**{f"{which}lim": (-0.03, 1.03), f"{which}ticks": _TENTHS})


def score_axis(axes: Axes, which: Literal["x", "y"], title: str, metric: MetricInfo | None) -> None:
    """Make the axis of a metric: from 0 to 1 where these are its bounds, else as wide as its values."""
    if metric is None or metric.range == (0, 1):
        share_axis(axes, which, title)
    else:
        titled(axes, which, title)


def retention_axis(axes: Axes) -> None:
    """Make the axis of the retention ratio: from 0 to 1, or to the largest of the ratios drawn."""
    title = "retention (ratio to the original's value)"
    ratios = [float(x) for line in axes.lines for x in np.asarray(line.get_xdata())]
    if all(ratio <= 1 for ratio in ratios if known(ratio)):
        share_axis(axes, "x", title)
    else:
        titled(axes, "x", title)


def titled(axes: Axes, which: Literal["x", "y"], title: str) -> None:
    """Name an axis, with as much of the title as fits."""
    axes.set(**{f"{which}label": cut(title, 60 if which == "x" else 44)})
