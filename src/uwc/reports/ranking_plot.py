"""The figure of the ranking: what each model has left at tau, with its interval, best on top."""

from html import escape

import plotly.graph_objects as go

from uwc.reports.held import ranked_metric
from uwc.reports.plots import FAINT, Style, axis_of_share, figure_layout, method_styles
from uwc.reports.ranking import ranked
from uwc.reports.records import Record, aggregate_of, known, reference_scores
from uwc.reports.words import with_interval

_AROUND, _ROW = 96, 26


def ranking_figure(results: Record) -> go.Figure | None:
    """A row for each ranked model: its forget score at tau and the 95 % interval through alpha; None without a ranking.

    Dashed lines are the original and, where there is one, the retrained model.
    """
    rows = [row for row in ranked(results) if known(row["forget"])]
    if not rows:
        return None
    figure, styles, (metric, label) = go.Figure(), method_styles(results), ranked_metric(results)
    for row in rows:
        figure.add_trace(_row(row, styles[row["name"]]))
    for name in ("original", "retrained"):
        score = aggregate_of(reference_scores(results, name), "forget", metric).get("mean")
        if known(score):
            figure.add_vline(x=score, line={"color": FAINT, "width": 1, "dash": "dash"})
            figure.add_annotation(
                x=score, y=1, yref="paper", yanchor="bottom", text=name, showarrow=False,
                font={"size": 12, "color": FAINT},
            )  # fmt: skip
    figure.update_layout(figure_layout(_AROUND + _ROW * len(rows), {"l": 12, "r": 24, "t": 26, "b": 46}))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(**axis_of_share(escape(f"forget {label} left (lower is better)")))
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, ticks="", linecolor="#b0b0b0")
    return figure


def _row(row: Record, style: Style) -> go.Scatter:
    mean, name = row["forget"], escape(row["name"])
    interval = None
    if known(row["low"]) and known(row["high"]):
        interval = {
            "type": "data", "symmetric": False, "array": [max(0.0, row["high"] - mean)],
            "arrayminus": [max(0.0, mean - row["low"])], "color": style.colour, "thickness": 1.6, "width": 4,
        }  # fmt: skip
    score = with_interval({"mean": mean, "low": row["low"], "high": row["high"]})
    return go.Scatter(
        x=[mean], y=[name], mode="markers", name=name, error_x=interval,
        marker={"symbol": style.symbol, "color": style.colour, "size": 11},
        text=[f"<b>{row['rank']}. {name}</b> {score}<br>alpha {row['alpha']:.3f}" if known(row["alpha"]) else score],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
