"""Published correlations, to be shown beside ours."""

from typing import NamedTuple

from uwc.published.tables import published


class PublishedPcc(NamedTuple):
    """A published PCC of a metric before against after an attack.

    Attributes:
        metric: our name of the metric.
        attack: the attack as the publication names it.
        retain: PCC over checkpoints on retain data.
        forget: on forget data.
        source: where it stands.
    """

    metric: str
    attack: str
    retain: float
    forget: float
    source: str


_TABLE = published("robustness-pcc")

PUBLISHED_PCC: tuple[PublishedPcc, ...] = tuple(PublishedPcc(**row, source=_TABLE.source) for row in _TABLE.rows)

OUR_NAMES: dict[str, str] = {
    "jailbreak": "jailbreak", "relearning": "relearn_original", "probing": "probe", "token noising": "token_noise",
    "GCG": "gcg", "relearning + probing": "relearn_original+probe",
}  # fmt: skip
"""The published name of an attack -> our chain."""
