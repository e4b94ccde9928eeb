"""Calibration of one unlearned checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc.data.example import Example, fingerprint, require_disjoint
from uwc.workflows.model_card import model_card
from uwc.workflows.targets import plain_target_of, reading_of

Sets = Mapping[str, Sequence[Example]]


def calibrate(
    original: str | Path | Any,
    unlearned: str | Path | Any,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example] | Sets = (),
    retention: Sequence[str | Callable[[Any], float]] = (),
    tau: float = 0.95,
    metric: str = "extraction_strength",
    utility_sets: Sets | None = None,
    max_new_tokens: int = 64,
    resolution: float = 1 / 128,
    save: Path | None = None,
    command: str = "",
    **loading: Any,
) -> dict[str, Any]:
    """Find how much of an unlearned model can be mixed into the original at `tau` of its retention.

    Everything that is given to hold fixed has to keep `tau` of the original's value: the least share decides.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Target` in memory.
        unlearned: the model after it, or a folder with a LoRA adapter on the original; a `Target` in memory becomes
            the calibrated model.
        forget: questions that should be forgotten.
        retain: questions on which `metric` is held fixed; several sets by name.
        retention: what else is held fixed: a task of lm-evaluation-harness by name (``"mmlu"``,
            ``"arc_easy:acc_norm"``) or a function from a `Target` to a number of which more is better.
        tau: share of the original's retention to keep.
        metric: the metric held fixed, in its own direction; the forget set is measured with it too. ``model_utility``
            holds TOFU's utility fixed, which needs `utility_sets`.
        utility_sets: "real_authors" and "world_facts", for ``model_utility``.
        max_new_tokens: the most tokens of a generated answer, for metrics that read them.
        resolution: how finely alpha is found.
        save: a folder for the calibrated model and its card; None does not write it.
        command: what the card says that made it.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        alpha, tau, the threshold, the forget and retain score at alpha, the trace of every probe, what was kept, the
        scores with n and interval, and the hashes of the data.

    Raises:
        UserError: the models cannot be mixed, the data overlap, or the original does not know the retain data.
    """
    from uwc.calibration.calibrate import calibrate_mixing
    from uwc.metrics.suites import metric_name

    retains = dict(retain) if isinstance(retain, Mapping) else {"retain": retain} if len(retain) else {}
    for name, examples in retains.items():
        require_disjoint(forget, examples, names=("forget", name))
    metric = metric_name(metric)
    measures, measured_with = _measures(retains, retention, metric, tau, utility_sets, max_new_tokens)
    mixing = _mixing(original, unlearned, loading)
    if save is not None:
        from uwc.models.export import require_free

        require_free(mixing, Path(save))
    found, _ = calibrate_mixing(
        mixing, measures, sets={"forget": forget}, tau=tau, metric=measured_with, resolution=resolution,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    data = {n: (len(e), fingerprint(e)) for n, e in {"forget": forget, **retains, **(utility_sets or {})}.items()}
    record = found.record() | {
        "forget_score": found.mean("forget", found.alpha),
        "retain_score": found.search.retain,
        "scores": _scores(found),
        "data": {name: {"examples": count, "sha256": digest} for name, (count, digest) in data.items()},
    }
    if save is not None:
        names = [getattr(m, "name", None) or str(m) for m in (original, unlearned)]
        _save(mixing, record, Path(save), names, data, command or f"uwc.calibrate({names[0]!r}, {names[1]!r}, ...)")
    return record


def _measures(
    retains: Sets,
    retention: Sequence[str | Callable[[Any], float]],
    metric: str,
    tau: float,
    utility_sets: Sets | None,
    max_new_tokens: int,
) -> tuple[list[Any], str]:
    """What is held fixed, cheap ones first, and the metric that the forget set is measured with."""
    from uwc.calibration.measures import retention_measures
    from uwc.metrics.suites import is_set_metric

    measures: list[Any] = retention_measures(
        retains, retention, metric=metric, tau=tau, utility_sets=utility_sets, max_new_tokens=max_new_tokens
    )
    return measures, "extraction_strength" if is_set_metric(metric) else metric


def _mixing(original: Any, unlearned: Any, loading: dict[str, Any]) -> Any:
    """Two checkpoints on disk are streamed into one model in memory; models in memory are mixed there."""
    from uwc.models.mixing import Mixer
    from uwc.models.pairs import open_mixing

    if isinstance(original, str | Path) and isinstance(unlearned, str | Path):
        return open_mixing(original, unlearned, **loading)
    reading = reading_of(original, loading)
    return Mixer(plain_target_of(original, loading), plain_target_of(unlearned, loading, reading))


def _scores(found: Any) -> list[dict[str, Any]]:
    """Each set's average for the original and the calibrated model, with its n and interval."""
    from uwc.metrics.registry import metrics
    from uwc.metrics.stats import aggregate

    average = metrics.get(found.metric).facts["average"]
    rows = []
    for name, probed in found.probed.items():
        before = found.original[name]
        for model, subjects, values in (
            ("original", before.subjects, before.values[0]),
            ("calibrated", probed.subjects, probed.values[found.alphas.index(found.alpha)]),
        ):
            row = {"set": name, "metric": found.metric, "model": model}
            rows.append(row | aggregate(values, subjects, average=average).model_dump())
    return rows


def _save(
    mixing: Any, record: dict[str, Any], folder: Path, names: Sequence[str], data: Mapping[str, tuple[int, str]],
    command: str,
) -> None:  # fmt: skip
    from uwc.models.adapters import AdapterMixer
    from uwc.models.export import save_mixture

    (folder / "README.md").unlink(missing_ok=True)  # an earlier model's: a folder without a card is not complete
    save_mixture(mixing, record["alpha"], folder)
    card = model_card(
        record, record["scores"], original=names[0], unlearned=names[1], data=data, command=command,
        adapter=isinstance(mixing, AdapterMixer),
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")
