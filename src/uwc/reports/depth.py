"""The unlearning depth score by block: a figure and a table."""

from matplotlib.ticker import MaxNLocator

from uwc.reports.drawing import FAINT, INK, WIDTH, Drawing, share_axis, styled, titled
from uwc.reports.figures import model_styles
from uwc.reports.format import Table, number
from uwc.results import FORGET, DepthProfile, StudyResults

SETS = (FORGET, "forget_paraphrased")
"""The sets with a figure; the knowledge of the others is not to be removed."""


def depth_profiles(results: StudyResults, name: str = FORGET) -> list[DepthProfile]:
    """The profiles of a set: each unlearned model as delivered, best first, and calibrated behind it."""
    found = {profile.model: profile for profile in results.depth if profile.set == name and profile.n}
    runs = [run.name for run in results.by_rank()]
    return sorted(
        found.values(), key=lambda profile: (runs.index(profile.model.run), profile.model.role != "unlearned")
    )


def depth_figures(results: StudyResults) -> dict[str, Drawing]:
    """Forget set ("" for the questions as asked) -> the depth profile of every model as delivered."""
    return {"" if name == FORGET else name: _figure(results, name) for name in SETS if depth_profiles(results, name)}


@styled()
def _figure(results: StudyResults, name: str) -> Drawing:
    """Above what the original loses by block, with the states of each model and, broken, of the retrained one; below
    the share of the questions of which a block holds knowledge."""
    profiles = [p for p in depth_profiles(results, name) if p.model.role == "unlearned"]
    styles = model_styles(results)
    drawing = Drawing.blank(
        WIDTH, 400, f"Depth profile: loss of the original by block, {results.set_label(name)}", parts=2
    )
    above, below = drawing.figure.axes
    layers = range(1, len(profiles[0].known) + 1)
    known = zip(layers, profiles[0].known, strict=True)
    drawn = [drawing.curve(above, known, "retrained", INK, "X", dash="--", what="block ")]
    for profile in profiles:
        style = styles[profile.model.run]
        points = zip(layers, profile.changed, strict=True)
        drawn.append(drawing.curve(above, points, profile.model.run, style.colour, style.symbol, what="block "))
    above.axhline(0, color=FAINT, linewidth=0.8)
    above.set_title(results.set_label(name), fontsize=12)
    titled(above, "y", "loss of the original, nats")
    share = zip(layers, profiles[0].share, strict=True)
    drawing.curve(below, share, "questions with knowledge", INK, "o", what="block ")
    share_axis(below, "y", "share of questions")
    titled(below, "x", "block whose output is replaced")
    below.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    for axes in (above, below):
        axes.yaxis.set_label_coords(-0.115, 0.5)
    drawing.legend(drawn)
    return drawing


def depth_table(results: StudyResults) -> Table | None:
    """The depth profile of the forget questions, a row for each block; None where it was not computed."""
    profiles = depth_profiles(results)
    if not profiles:
        return None
    first = profiles[0]
    columns = {"retrained": first.known} | {p.model.label: p.changed for p in profiles}
    rows = zip(first.share, *columns.values(), strict=True)
    span = "the whole answer" if first.span == "answer" else "the secrets in the answer"
    remarks = [
        f"Mean over {first.n} forget questions, in nats a token of {span}.",
        "A block holds knowledge of a question if the loss with the retrained model's states is above "
        f"{first.threshold:g}; for {first.without_layer} of the questions none does, and they have no score.",
    ]
    return Table(
        "Depth profile: loss of the original with the states of another model at the output of one block",
        ("block", "share with knowledge", *columns),
        tuple((str(layer), *map(number, row)) for layer, row in enumerate(rows, start=1)),
        "\n".join(remarks),
    )
