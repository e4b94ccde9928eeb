"""Published correlations for comparison with ours, and the orders of metrics by both."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from uwc.published.tables import published
from uwc.results import Cell, Order


class PublishedPcc(NamedTuple):
    """A published PCC of a metric before against after an attack.

    Attributes:
        metric: our name of the metric.
        attack: the published name of the attack.
        retain: PCC over checkpoints on retain data.
        forget: PCC over checkpoints on forget data.
        source: the place of publication.
    """

    metric: str
    attack: str
    retain: float
    forget: float
    source: str


_TABLE = published("robustness-pcc")

PUBLISHED_PCC: tuple[PublishedPcc, ...] = tuple(PublishedPcc(**row, source=_TABLE.source) for row in _TABLE.rows)

OUR_NAMES: dict[str, str] = {
    "jailbreak": "jailbreak",
    "relearning": "relearn_original",
    "probing": "probe",
    "token noising": "token_noise",
    "GCG": "gcg",
    "relearning + probing": "relearn_original+probe",
}
"""The published name of an attack -> our chain."""


def published_pcc(metric: str, attack: str, split: str) -> float | None:
    """The published PCC of our metric under our chain on a split; None where there is none."""
    if split not in ("retain", "forget"):
        return None
    found = [getattr(p, split) for p in PUBLISHED_PCC if (p.metric, OUR_NAMES[p.attack]) == (metric, attack)]
    return found[0] if found else None


def compared_orders(cells: Sequence[Cell], chains: Mapping[str, str] | None = None) -> list[Order]:
    """All pairs of metrics with different published PCC under one attack and split, with both orders.

    Args:
        cells: our correlations; pairs with one that does not exist are left out.
        chains: name of an attack in the cells -> our chain, if the two differ.
    """
    chains = chains or {}
    groups: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for cell in cells:
        attack = chains.get(cell.attack, cell.attack)
        published, ours = published_pcc(cell.metric, attack, cell.split), cell.agreement.pcc.value
        if published is not None and ours == ours:
            groups.setdefault((attack, cell.split), []).append((published, ours, cell.metric))
    orders = []
    for (attack, split), group in groups.items():
        for high, low in combinations(sorted(group, reverse=True), 2):
            if high[0] > low[0]:
                orders.append(
                    Order(
                        attack=attack,
                        split=split,
                        first=high[2],
                        second=low[2],
                        published=(high[0], low[0]),
                        ours=(high[1], low[1]),
                        same=high[1] > low[1],
                    )
                )
    return orders
