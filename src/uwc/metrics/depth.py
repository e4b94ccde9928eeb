"""The unlearning depth score: whether a model's states carry the forgotten answers, block by block."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from uwc.data.example import Example
from uwc.data.spans import Span
from uwc.errors import ConfigError, DataError
from uwc.metrics.registry import inputs_of, metrics
from uwc.models.token_scores import Floats
from uwc.results import DepthProfile, ModelKey

if TYPE_CHECKING:
    from uwc.metrics.compat import Compat
    from uwc.metrics.evaluate import ScoredSets, Scoring
    from uwc.metrics.scored import ScoredSet
    from uwc.models.model import Model

UDS = "uds"
Drops = Mapping[str, Floats]
"""Set -> [E, L] the log-probability that the original loses with a model's states at each block; see
`uwc.models.patching.patched_drops`."""


@dataclass(frozen=True, eq=False)
class Depth:
    """The drops of a model and of the retrained one on a set.

    Attributes:
        span: the measured tokens.
        known: [E, L] D1, with the states of the retrained model; NaN for an example that is not measured.
        changed: [E, L] D2, with those of the scored model.
    """

    span: Span
    known: Floats
    changed: Floats


@metrics.register(
    UDS,
    source="arXiv:2605.24614",
    needs=("depth",),
    range=(0.0, 1.0),
    higher_remembers=False,
    average="arithmetic",
    label="UDS",
    unscored="no block of the original holds the answer, or there is no such span",
)
def unlearning_depth_score(
    depth: Depth, *, span: Span = "answer", threshold: Annotated[float, Field(ge=0)] = 0.05
) -> Floats:
    """Unlearning depth score: the share of the answer's knowledge that is gone from the model's states.

    ``UDS = sum_K D1_l clip(D2_l / D1_l, 0, 1) / sum_K D1_l`` over the knowledge layers ``K = {l : D1_l > threshold}``.
    ``D1_l = s(F) - s(F <- R, l)`` and ``D2_l = s(F) - s(F <- U, l)`` are what the original F loses when the states that
    block l of the retrained model R or of the scored model U puts out take the place of its own, at the positions that
    predict the answer's tokens; s is the mean log-probability of these tokens in nats, teacher-forced. 0: everything is
    still there; 1: as gone as from a model that never saw it.

    Args:
        depth: [E, L] D1 and D2.
        span: "answer" for the whole answer, "secret" for the places where the question's secrets stand in it.
        threshold: the least D1, in nats, of a block that holds knowledge.

    Returns:
        [E] in 0..1; NaN where no block holds knowledge (K is empty), and for an example without a secret in its answer
        if these are measured.

    Raises:
        ConfigError: another span was scored.
    """
    if depth.span != span:
        raise ConfigError(
            f"the metric {UDS!r} was scored with span={depth.span!r}, and is asked for span={span!r}; score the model "
            "again with this span"
        )
    weights = np.where(depth.known > threshold, depth.known, 0.0)
    gone = np.where(weights > 0, np.clip(depth.changed, 0.0, depth.known), 0.0)
    total = weights.sum(axis=1)
    total = np.where((total > 0) & ~np.isnan(depth.known).any(axis=1), total, np.nan)
    found: Floats = gone.sum(axis=1) / total
    return found


@dataclass(frozen=True)
class DepthWork:
    """The sets whose drops metrics read, and the measured tokens."""

    span: Span
    sets: Mapping[str, Sequence[Example]]

    def drops(self, original: "Model", model: "Model", compat: "Compat | None" = None) -> Drops:
        """The drops with a model's states; in a peer's definitions with its prompt. Raises as `patched_drops`."""
        from uwc.models.patching import patched_drops

        if compat is not None:
            original, model = compat.adapt(original), compat.adapt(model)
        return patched_drops(original, model, self.sets, span=self.span)


def depth_work(scoring: "Scoring") -> DepthWork | None:
    """The work of the metrics that read drops; None if there are none."""
    sets = {
        name: examples
        for name, examples in scoring.given.sets.items()
        if any("depth" in inputs_of(m) for m in (*scoring.measured(name), *scoring.read(name)))
    }
    return DepthWork(_settings(scoring)["span"], sets) if sets else None


@dataclass(frozen=True, eq=False)
class KnownDrops:
    """What the drops of an attacked model are compared with.

    Attributes:
        original: the model before unlearning, F.
        span: the measured tokens.
        known: [E, L] D1 of the scored examples.
    """

    original: "Model"
    span: Span
    known: Floats

    def depth(self, model: "Model", examples: Sequence[Example]) -> Depth:
        """The drops of a model on the [E] examples. Raises as `patched_drops`."""
        drops = DepthWork(self.span, {"": examples}).drops(self.original, model)
        return Depth(self.span, self.known, drops[""])


def save_drops(folder: Path, drops: Drops) -> None:
    """Write ``SET.npy`` into a folder for each set."""
    for name, values in drops.items():
        np.save(folder / f"{name}.npy", values)


def load_drops(folder: Path, names: Iterable[str]) -> dict[str, Floats]:
    """Read the files of `save_drops`. Raises DataError if one is damaged or missing."""
    found = {}
    for name in names:
        path = folder / f"{name}.npy"
        try:
            found[name] = np.load(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged or missing ({error}); run again with --verify") from error
    return found


def with_depth(scored: "ScoredSets", span: Span, *, known: Drops, changed: Drops) -> "dict[str, ScoredSet]":
    """The scored sets with their drops, as far as there are any.

    Args:
        scored: the scored sets of a model.
        span: the measured tokens.
        known: D1, with the retrained model's states.
        changed: D2, with the model's own.
    """
    return {
        name: replace(found, depth=Depth(span, known[name], changed[name])) if name in known else found
        for name, found in scored.items()
    }


def without_change(known: Drops) -> Drops:
    """The drops of the original itself: 0 wherever there is a value."""
    return {name: np.where(np.isnan(drops), np.nan, 0.0) for name, drops in known.items()}


def depth_profiles(scored: "ScoredSets", key: ModelKey, scoring: "Scoring") -> Iterator[DepthProfile]:
    """The means of D1 and D2 by layer for each set with drops, and the share of examples of which a layer holds
    knowledge.

    Args:
        scored: the scored sets of a model.
        key: the model.
        scoring: has the settings of the score.
    """
    threshold = _settings(scoring)["threshold"]
    for name, found in scored.items():
        if found.depth is None:
            continue
        known, changed = found.depth.known, found.depth.changed
        measured = ~np.isnan(known).any(axis=1) & ~np.isnan(changed).any(axis=1)
        holds = known[measured] > threshold
        count = int(measured.sum())
        yield DepthProfile(
            set=name,
            model=key,
            span=found.depth.span,
            threshold=threshold,
            n=count,
            without_layer=int((~holds.any(axis=1)).sum()),
            known=tuple(known[measured].mean(axis=0).tolist()) if count else (),
            changed=tuple(changed[measured].mean(axis=0).tolist()) if count else (),
            share=tuple(holds.mean(axis=0).tolist()) if count else (),
        )


def _settings(scoring: "Scoring") -> dict[str, Any]:
    """The complete settings of the score."""
    return metrics.check(UDS, scoring.settings.get(UDS, {}))
