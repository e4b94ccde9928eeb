"""Comparison of any unlearned checkpoints: a study whose unlearned models are given."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc.calibration.measures import ranking_metric
from uwc.data.local_files import PARTS
from uwc.errors import ConfigError
from uwc.metrics.set_level import UTILITY_SETS
from uwc.metrics.suites import metric_name
from uwc.results import ES, StudyResults, attack_rows
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import validated
from uwc.studies.plan import make_plan
from uwc.studies.store import Store
from uwc.workflows.given import Questions, kept_model, kept_questions, precision_of, require_files
from uwc.workflows.quick_attacks import attack_section
from uwc.workflows.studies import StudyOutcome, require_models, run_plan

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_OUT = Path("comparison")
SEED_MARK = "@"
"""``npo@1`` is the method npo with the seed 1."""
TAKEN = (*PARTS, *UTILITY_SETS)
"""The names of sets that further questions to keep cannot have."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, as tables.

    Attributes:
        outcome: the study it is: its folder, report and ``results.json``.
    """

    outcome: StudyOutcome

    @property
    def results(self) -> StudyResults:
        """The content of ``results.json``."""
        return self.outcome.results

    @cached_property
    def ranking(self) -> "pd.DataFrame":
        """Best first: residual forget score and alpha with intervals, retention, the calibrated mixture, confidence."""
        return _frame(self.results.ranking_rows())

    @cached_property
    def scores(self) -> "pd.DataFrame":
        """Every metric of every model, as delivered and calibrated, on every set."""
        return self.results.to_frame()

    @cached_property
    def tau_curve(self) -> "pd.DataFrame":
        """The residual forget score of each model at each tau, with alpha and interval."""
        return _frame(self.results.curve_rows())

    @cached_property
    def method_tau_curve(self) -> "pd.DataFrame":
        """The tau curve of each method with several seeds: mean, spread between seeds and over examples, interval."""
        return _frame(self.results.mean_curve_rows())

    @cached_property
    def pairs(self) -> "pd.DataFrame":
        """Row by column: the confidence that the row's model leaves less than the column's."""
        names = list(self.results.ranking)
        return _frame(self.results.pairs).T.reindex(index=names, columns=names)

    @cached_property
    def attacks(self) -> "pd.DataFrame":
        """For each model and attack the score before and under it, the recovery with its interval, and the excess over
        the retrained model."""
        return _frame(attack_rows(self.results.attacks) if self.results.attacks else ())


def compare(
    original: Any,
    unlearned: Mapping[str, Any] | Sequence[str | Path],
    *,
    forget: Questions,
    retain: Questions,
    further_retain: Mapping[str, Questions] | None = None,
    sets: Mapping[str, Questions] | None = None,
    retrained: Any | None = None,
    holdout: Questions | None = None,
    columns: Mapping[str, str] | None = None,
    suite: str | None = None,
    metrics: Sequence[str] = (),
    judges: Mapping[str, str | Path | None] | None = None,
    tau: float = 0.95,
    retention_metric: str | None = ES,
    retention: Sequence[str] = (),
    rank_by: str | None = None,
    attacks: Sequence[str] | None = None,
    attack_settings: Mapping[str, Mapping[str, Any]] | None = None,
    attack_examples: int | None = 50,
    attack_calibrated: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    title: str = "",
    out: str | Path = DEFAULT_OUT,
    **loading: Any,
) -> Comparison:
    """Compare unlearned models: scored, calibrated at `tau` of the original's retention, scored again and attacked.

    Interrupted at any moment, the next call resumes it and ends with the same bits.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Target` in memory.
        unlearned: name -> unlearned model (also the folder of an adapter of the original); or paths, named by their
            last part. Names such as ``npo@0`` and ``npo@1`` are one method with two seeds.
        forget: the questions that should be forgotten.
        retain: the questions on which retention is measured.
        further_retain: name -> further questions on which it is measured; each set must keep `tau` by itself.
        sets: further sets that are scored: real_authors and world_facts (for ``model_utility``), verbatim, or others.
        retrained: a model that was never trained on the forget questions.
        holdout: questions that no model was trained on.
        columns: field -> column, for files that name them otherwise.
        suite: what is reported: core, tofu, muse, membership or all; core if neither a suite nor metrics are named.
        metrics: further metrics that are reported, by name or label, numbers for whole sets among them.
        judges: "encoder" and "entailment" -> a folder or hub name, for the metrics that judge generated answers.
        tau: the share of the original's retention that calibration keeps.
        retention_metric: the metric of the retention constraint, in its own direction: any that `uwc.calibrate` takes;
            None leaves the constraint to what `retention` names alone.
        retention: further retention constraints: tasks of lm-evaluation-harness (``"mmlu"``, ``"arc_easy:acc_norm"``).
        rank_by: the metric of the forget set that models are ranked by, which is reported too; `retention_metric` if
            models can be ranked by it, else extraction strength.
        attacks: attacks and chains of them, such as ``"relearn+probe"``; None takes a quick set, an empty list none.
        attack_settings: attack -> setting -> value.
        attack_examples: how many forget questions are scored under attack; all if None.
        attack_calibrated: attack the calibrated models too; by default the given ones and retrained.
        max_new_tokens: the most tokens of a generated answer; 0 generates none.
        seed: of the bootstrap.
        title, out: of the report; the folder for it, the results and the cache.
        loading: dtype, device, template, trust_remote_code for `load_target`; by default as an original in memory.

    Raises:
        UserError: a model or file is not as it should be, or there is nothing to compare.
    """
    given = dict(unlearned) if isinstance(unlearned, Mapping) else named_by_path(unlearned)
    folder = Path(out)
    template = loading.pop("template", None) or getattr(original, "template", None)
    data = {"forget": forget, "retain": retain, "holdout": holdout}
    further = {**(further_retain or {}), **(sets or {})}
    kept = None if retention_metric is None else metric_name(retention_metric)
    calibrate = _calibration(kept, tuple(further_retain or {}), retention, rank_by) | {"tau": tau}
    ranked_by = ranking_metric(kept or ES, None if rank_by is None else metric_name(rank_by))
    config = validated(
        {
            "name": re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "comparison",
            "title": title or f"{len(given)} unlearned models compared",
            "seed": seed,
            "benchmark": {"name": "local-files", "settings": _questions(data, further, columns, folder)},
            "model": _model(original, folder, template, loading),
            "retrained": False if retrained is None else kept_model(retrained, folder, template),
            "unlearn": {"runs": [_run(name, kept_model(m, folder, template)) for name, m in given.items()]},
            "score": {
                "suite": suite or (None if metrics else "core"),
                "metrics": list(dict.fromkeys([*map(metric_name, metrics), ranked_by])),
                "max_new_tokens": max_new_tokens,
                "judges": {name: str(path) for name, path in (judges or {}).items() if path is not None},
            },
            "calibrate": calibrate,
            "attack": attack_section(
                attacks, attack_settings or {}, metric=ranked_by, examples=attack_examples,
                models=["unlearned", *["calibrated"] * attack_calibrated, *["retrained"] * (retrained is not None)],
            ),
        },
        where="compare",
    )  # fmt: skip
    return _compare(config, folder)


def _questions(
    data: Mapping[str, Questions | None],
    sets: Mapping[str, Questions],
    columns: Mapping[str, str] | None,
    folder: Path,
) -> dict[str, Any]:
    if columns:
        require_files({**data, **sets})
    kept: dict[str, Any] = {name: kept_questions(q, name, folder) for name, q in data.items() if q is not None}
    if sets:
        kept["further"] = {name: kept_questions(q, name, folder) for name, q in sets.items()}
    return {**kept, "columns": dict(columns)} if columns else kept


def _calibration(
    metric: str | None, further: Sequence[str], tasks: Sequence[str], rank_by: str | None
) -> dict[str, Any]:
    """The section without tau, each key only where it says something."""
    if metric is None and further:
        raise ConfigError(f"there is no retention metric, so {', '.join(further)} cannot be kept; name a metric")
    sets = [] if metric is None else ["retain", *further] if further else None
    given = {"sets": sets, "tasks": list(tasks) or None, "rank_by": rank_by}
    return {"metric": metric or ES} | {key: value for key, value in given.items() if value is not None}


def _model(original: Any, folder: Path, template: Any, loading: Mapping[str, Any]) -> dict[str, Any]:
    prompt = {} if template is None else {"prompt": asdict(template)}
    return {"dtype": precision_of(original), **loading, **prompt, "path": kept_model(original, folder, template)}


def named_by_path(paths: Sequence[str | Path]) -> dict[str, str]:
    """Name -> path, from ``NAME=PATH`` or a path alone, which is named by its last part.

    Raises:
        ConfigError: two have one name.
    """
    named: dict[str, str] = {}
    for text in map(str, paths):
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).resolve().name if Path(text).exists() else Path(text).name, text
        if name in named:
            raise ConfigError(
                f"two unlearned models are called {name!r} ({named[name]} and {path}); name them: NAME=PATH"
            )
        named[name] = path
    return named


def _run(name: str, path: str) -> dict[str, Any]:
    method, mark, seed = name.rpartition(SEED_MARK)
    return {"name": name, "checkpoint": path, "group": method if mark and seed.isdigit() else ""}


def _compare(config: StudyConfig, folder: Path) -> Comparison:
    plan = make_plan(config)
    require_models(config)
    return Comparison(run_plan(plan, Store(folder / "store"), folder))


def _frame(rows: Any) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows if isinstance(rows, Mapping) else list(rows))
