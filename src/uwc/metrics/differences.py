"""Paired differences: two models on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from uwc.errors import DataError
from uwc.metrics.aggregation import Aggregate, Average, aggregate
from uwc.models.token_scores import Floats


@dataclass(frozen=True)
class Paired:
    """The difference of two models on the same examples.

    Attributes:
        difference: second minus first (for geometric averages the ratio second / first), with n, standard error and
            interval over the examples that both models have a value for.
        not_scored: how many examples lack a value of either model.
        p_value: two-sided, of the hypothesis that there is no difference: the mean over its standard error as
            Student's t with one degree of freedom less than there are clusters; NaN for fewer than two clusters.
    """

    difference: Aggregate
    not_scored: int
    p_value: float


def paired_difference(
    first: Floats,
    second: Floats,
    subjects: Sequence[str],
    *,
    average: Average = "arithmetic",
    seed: int = 0,
) -> Paired:
    """Compare two models example by example; the bootstrap draws whole clusters of pairs.

    Pairing removes what the examples differ in: the error of the difference is mostly far below that of each mean.

    Args:
        first: [E] values of the first model, NaN where not scored.
        second: [E] values of the second on the same examples in the same order.
        subjects: [E]; examples that share one are drawn together.
        average: "geometric" compares on logarithms and reports a ratio.
        seed: of the bootstrap.

    Raises:
        DataError: the two do not have the same number of examples.
    """
    if len(first) != len(second) or len(first) != len(subjects):
        raise DataError(
            f"paired comparison of {len(first)} with {len(second)} values for {len(subjects)} examples; "
            "score both models on the same examples"
        )
    if average == "geometric":
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.log(second) - np.log(first)
    else:
        gap = second - first
    on_line = aggregate(gap, subjects, seed=seed)
    p_value = float("nan")
    if on_line.clusters > 1 and on_line.se > 0:
        p_value = float(2 * stats.t.sf(abs(on_line.mean / on_line.se), on_line.clusters - 1))
    elif on_line.clusters > 1 and on_line.se == 0:
        p_value = float(on_line.mean == 0)
    if average == "geometric":
        on_line = aggregate(np.exp(gap), subjects, average="geometric", seed=seed)
    return Paired(on_line, on_line.not_scored, p_value)
