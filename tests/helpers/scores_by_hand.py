"""Token scores written down by hand, for tests of metrics."""

from collections.abc import Mapping, Sequence

import numpy as np

from uwc.models.token_scores import TokenScores


def scores(
    logprobs: Sequence[Sequence[float]],
    *,
    ids: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    greedy: Sequence[str] | None = None,
    stops: Sequence[str] | None = None,
    end: bool = False,
    mean: Sequence[float] | None = None,
    variance: Sequence[float] | None = None,
    kl: float = float("nan"),
    reference: Sequence[float] | None = None,
    sampled: Mapping[str, Sequence[float]] | None = None,
) -> TokenScores:
    """Scores of rows given by their tokens' log-probabilities; `greedy` and `stops` as strings of 1 and 0 a row.

    Flat columns (`mean`, `variance`, `reference`, `sampled`) are given for all tokens of all rows.
    """
    flat = np.array([p for row in logprobs for p in row], dtype=np.float32)
    count = len(logprobs)

    def bits(rows: Sequence[str] | None) -> np.ndarray:
        return np.zeros(len(flat), dtype=bool) if rows is None else np.array([c == "1" for c in "".join(rows)])

    def column(values: Sequence[float] | None, default: float) -> np.ndarray:
        return np.full(len(flat), default, np.float32) if values is None else np.array(values, np.float32)

    return TokenScores(
        ids=tuple(ids or map(str, range(count))),
        subjects=tuple(subjects or [""] * count),
        variants=tuple(variants or ["answer"] * count),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in logprobs])]).astype(np.int64),
        end_lengths=np.full(count, int(end)),
        finite=np.ones(count, dtype=bool),
        logprob=flat,
        greedy=bits(greedy),
        stops=bits(stops),
        mean_logprob=column(mean, 0.0),
        var_logprob=column(variance, 1.0),
        kl=np.full(len(flat), kl, np.float32),
        reference_logprob=column(reference, float("nan")),
        sampled={name: np.array(values, np.float32) for name, values in (sampled or {}).items()},
    )


def greedy_scores(*greedy: str, stops: list[str] | None = None, end: bool = False) -> TokenScores:
    """Answers of which only is known where the argmax is the token ("1") and where the model stops."""
    return scores([[-1.0] * len(g) for g in greedy], greedy=list(greedy), stops=stops, end=end)
