"""Published correlations, to be shown beside ours."""

from typing import NamedTuple


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


_DISCUSSION = "arXiv:2406.09179, public review discussion"

PUBLISHED_PCC: tuple[PublishedPcc, ...] = (
    PublishedPcc("truth_ratio", "jailbreak", 0.97, 0.99, _DISCUSSION),
    PublishedPcc("truth_ratio", "relearning", 0.56, 0.09, _DISCUSSION),
    PublishedPcc("truth_ratio", "probing", 0.83, 0.02, _DISCUSSION),
    PublishedPcc("truth_ratio", "token noising", 0.99, 0.99, _DISCUSSION),
    PublishedPcc("perplexity", "GCG", 0.83, 0.50, _DISCUSSION),
    PublishedPcc("perplexity", "relearning + probing", 0.54, 0.03, _DISCUSSION),
    PublishedPcc("exact_memorization", "GCG", 0.92, 0.91, _DISCUSSION),
    PublishedPcc("exact_memorization", "relearning + probing", 0.55, 0.29, _DISCUSSION),
    PublishedPcc("extraction_strength", "GCG", 0.94, 0.91, _DISCUSSION),
    PublishedPcc("extraction_strength", "relearning + probing", 0.73, 0.61, _DISCUSSION),
)

OUR_NAMES: dict[str, str] = {
    "jailbreak": "jailbreak", "relearning": "relearn_original", "probing": "probe", "token noising": "token_noise",
    "GCG": "gcg", "relearning + probing": "relearn_original+probe",
}  # fmt: skip
"""The published name of an attack -> our chain."""
