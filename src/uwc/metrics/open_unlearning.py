"""OpenUnlearning's aggregates: harmonic means of forgetting, privacy and utility, each 1 at best."""

import numpy as np

from uwc.metrics.registry import set_metrics
from uwc.metrics.set_metrics import auc, harmonic_mean, model_utility
from uwc.models.token_scores import Floats

_SOURCE = "arXiv:2506.12618"
_ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
_REMEMBERED = tuple(
    f"forget:{m}" for m in ("extraction_strength", "exact_memorization", "paraphrase_probability", "truth_probability")
)
_UTILITY: tuple[str, ...] = set_metrics.get("model_utility").facts["needs"]
_MEMBERSHIP = tuple(f"{of}:mia_{attack}" for attack in _ATTACKS for of in ("forget", "holdout"))
_FLUENCY = "forget:fluency"
_RETRAINED = tuple(f"retrained/{need}" for need in _MEMBERSHIP)


@set_metrics.register(
    "ou_memorization",
    source=_SOURCE,
    needs=_REMEMBERED,
    range=(0.0, 1.0),
    higher_remembers=False,
    label="memorization (OpenUnlearning)",
    interval=True,
)
def ou_memorization(*values: Floats) -> float:
    """OpenUnlearning's memorization aggregate: how little is remembered of the forget set.

    ``HM(1 - ES, 1 - EM, 1 - P(paraphrased answer), 1 - truth ratio)`` of the means, HM the harmonic mean and the truth
    ratio `truth_probability`: 1 if nothing is remembered, 0 if any of the four is complete.

    Args:
        values: four arrays, each with the values of one metric.
    """
    return harmonic_mean([max(0.0, 1.0 - float(v.mean())) for v in values])


def membership_closeness(found: float, retrained: float) -> float:
    """How close the AUC of membership inference is to that of the retrained model, ``s_MIA``.

    ``clip(1 - |AUC - AUC_retrained| / AUC_retrained, 0, 1)``; NaN if AUC_retrained is 0.

    Source: arXiv:2506.12618.
    """
    return float(np.clip(1.0 - abs(found - retrained) / retrained, 0.0, 1.0)) if retrained > 0 else float("nan")


@set_metrics.register(
    "ou_privacy",
    source=_SOURCE,
    needs=(*_MEMBERSHIP, *_RETRAINED),
    range=(0.0, 1.0),
    higher_remembers=None,
    label="privacy (OpenUnlearning)",
    interval=True,
)
def ou_privacy(*values: Floats) -> float:
    """OpenUnlearning's privacy aggregate: how close membership inference is to that on the retrained model.

    ``HM_a clip(1 - |AUC_a - AUC_a,retrained| / AUC_a,retrained, 0, 1)`` over the attacks loss, zlib, min-k and min-k++:
    1 if each AUC is the retrained model's; low if the forget set is still recognised, and also if it stands out as
    never seen.

    Args:
        values: sixteen arrays: for each attack the scores of forget and holdout set, then those of the retrained model.

    Returns:
        The aggregate; NaN if an AUC of the retrained model is 0.
    """
    aucs = [auc(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
    found, retrained = aucs[: len(_ATTACKS)], aucs[len(_ATTACKS) :]
    close = list(map(membership_closeness, found, retrained))
    return float("nan") if np.isnan(close).any() else harmonic_mean(close)


def ou_utility(utility: float, fluency: float | None = None) -> float:
    """OpenUnlearning's utility aggregate: ``HM(model utility, fluency)``; model utility alone if there is no fluency.

    Args:
        utility: TOFU's model utility, see `model_utility`.
        fluency: the mean probability that a classifier of gibberish calls an answer clean, see `fluency`.

    Source: arXiv:2506.12618.
    """
    return utility if fluency is None else harmonic_mean([utility, fluency])


@set_metrics.register(
    "ou_utility",
    source=_SOURCE,
    needs=_UTILITY,
    optional=(_FLUENCY,),
    range=(0.0, 1.0),
    higher_remembers=True,
    label="utility (OpenUnlearning)",
    interval=True,
)
def utility_aggregate(*values: Floats) -> float:
    """OpenUnlearning's utility aggregate: ``HM(model utility, fluency)``.

    Fluency is the mean of `fluency` on the forget set, where a classifier is given (``score.judges.classifier``);
    without one it is model utility alone.

    Args:
        values: nine arrays, those of `model_utility`, and where it is measured that of `fluency`.
    """
    kept, fluent = values[: len(_UTILITY)], values[len(_UTILITY) :]
    return ou_utility(float(model_utility(*kept)), float(fluent[0].mean()) if fluent else None)


@set_metrics.register(
    "ou_overall",
    source=_SOURCE,
    needs=(*_REMEMBERED, *_UTILITY, *_MEMBERSHIP, *_RETRAINED),
    optional=(_FLUENCY,),
    range=(0.0, 1.0),
    higher_remembers=None,
    label="overall (OpenUnlearning)",
    interval=True,
)
def ou_overall(*values: Floats) -> float:
    """OpenUnlearning's overall score of an unlearned model; 1 is best.

    ``HM(memorization, privacy, utility)`` with `ou_memorization`, `ou_privacy` and `ou_utility`, which is model utility
    alone where no classifier of fluency is given.

    Args:
        values: the arrays of `ou_memorization`, of `model_utility` and of `ou_privacy`, and where it is measured that
            of `fluency`.
    """
    first, second = len(_REMEMBERED), len(_REMEMBERED) + len(_UTILITY)
    third = second + len(_MEMBERSHIP) + len(_RETRAINED)
    privacy = float(ou_privacy(*values[second:third]))
    if np.isnan(privacy):
        return privacy
    utility = float(utility_aggregate(*values[first:second], *values[third:]))
    return harmonic_mean([float(ou_memorization(*values[:first])), privacy, utility])
