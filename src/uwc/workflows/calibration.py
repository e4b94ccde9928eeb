"""Calibration of one unlearned checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc import __version__
from uwc.data.example import Example, fingerprint, require_disjoint
from uwc.results import CalibrationResults, SetInfo
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
    retention_metric: str | None = "extraction_strength",
    rank_by: str | None = None,
    sets: Sets | None = None,
    max_new_tokens: int = 64,
    resolution: float = 1 / 128,
    curve: bool = True,
    seed: int = 0,
    save: Path | None = None,
    output_dir: str | Path | None = None,
    command: str = "",
    **loading: Any,
) -> CalibrationResults:
    """Find how much of an unlearned model can be mixed into the original at `tau` of its retention.

    The numbers are those of `uwc.compare` on the same models and files.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Target` in memory.
        unlearned: the model after it, or a folder with a LoRA adapter on the original; a `Target` in memory is
            overwritten.
        forget: questions that should be forgotten.
        retain: questions on which `retention_metric` is kept; several sets by name, each of which is kept by itself.
        retention: further retention measures: a task of lm-evaluation-harness by name (``"mmlu"``,
            ``"arc_easy:acc_norm"``) or a function from a `Target` to a number of which more is better.
        tau: the least ratio of every retention measure to the original's value.
        retention_metric: the metric of the retention constraint, in its own direction; None leaves the constraint to
            `retention` alone.
        rank_by: the metric of the forget set; `retention_metric` if models can be ranked by it, else extraction
            strength.
        sets: "real_authors" and "world_facts", for ``model_utility``.
        max_new_tokens: the most tokens of a generated answer, for metrics that read them.
        resolution: how finely alpha is found.
        curve: probe the whole grid of mixtures with all questions, as the score at exactly tau, the tau curve and the
            intervals through alpha need; without, alpha alone is searched, in a third of the time.
        seed: of the bootstrap.
        save: a folder for the calibrated model and its card; None does not write it.
        output_dir: a folder for calibration.json and the values of the probes; None does not write them.
        command: what the card says that made it.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: the models cannot be mixed, the data overlap, or the original does not know the retain data.
    """
    from uwc.calibration.calibrate import calibrate as calibrate_mixing
    from uwc.calibration.measures import ranking_metric, retention_measures
    from uwc.metrics.suites import metric_name

    retains = dict(retain) if isinstance(retain, Mapping) else {"retain": retain} if len(retain) else {}
    for name, examples in retains.items():
        require_disjoint(forget, examples, names=("forget", name))
    questions = retains | dict(sets or {})
    metric = metric_name(retention_metric or "extraction_strength")
    measures = retention_measures(
        questions,
        metric=metric,
        keep=() if retention_metric is None else tuple(retains),
        further=retention,
        max_new_tokens=max_new_tokens,
    )
    mixing = _mixing(original, unlearned, loading)
    if save is not None:
        from uwc.models.export import require_free

        require_free(mixing, Path(save))
    found = calibrate_mixing(
        mixing,
        measures,
        {"forget": forget},
        tau=tau,
        metric=ranking_metric(metric, None if rank_by is None else metric_name(rank_by)),
        resolution=resolution,
        curve=curve,
        max_new_tokens=max_new_tokens,
    )
    names = [getattr(model, "name", None) or str(model) for model in (original, unlearned)]
    results = CalibrationResults(
        uwc_version=__version__,
        original=names[0],
        unlearned=names[1],
        sets={
            name: SetInfo(label=name.replace("_", " "), examples=len(examples), sha256=fingerprint(examples))
            for name, examples in {"forget": forget, **questions}.items()
        },
        calibration=found.record(seed=seed),
        scores=found.scores(seed=seed),
        warnings=found.warnings,
    )
    if output_dir is not None:
        results.save(output_dir)
        found.save(Path(output_dir))
    if save is not None:
        _save(mixing, results, Path(save), command or f"uwc.calibrate({names[0]!r}, {names[1]!r}, ...)")
    return results


def _mixing(original: Any, unlearned: Any, loading: dict[str, Any]) -> Any:
    """Two checkpoints on disk are streamed into one model in memory; models in memory are mixed there."""
    from uwc.models.mixing import Mixer
    from uwc.models.pairs import open_mixing

    if isinstance(original, str | Path) and isinstance(unlearned, str | Path):
        return open_mixing(original, unlearned, **loading)
    reading = reading_of(original, loading)
    return Mixer(plain_target_of(original, loading), plain_target_of(unlearned, loading, reading))


def _save(mixing: Any, results: CalibrationResults, folder: Path, command: str) -> None:
    from uwc.models.adapters import AdapterMixer
    from uwc.models.export import save_mixture

    (folder / "README.md").unlink(missing_ok=True)  # an earlier model's: a folder without a card is not complete
    save_mixture(mixing, results.calibration.alpha, folder)
    card = model_card(results, command=command, adapter=isinstance(mixing, AdapterMixer))
    (folder / "README.md").write_text(card, encoding="utf-8")
