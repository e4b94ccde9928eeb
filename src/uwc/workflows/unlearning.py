"""Unlearning of any checkpoint."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc import progress
from uwc.data.example import Example, require_disjoint
from uwc.errors import ConfigError
from uwc.workflows.targets import plain_target_of

if TYPE_CHECKING:
    from uwc.models.target import Target
    from uwc.objectives.methods import Method
    from uwc.training.callbacks import StopRule
    from uwc.training.data import TrainingData
    from uwc.training.settings import TrainingSettings
    from uwc.training.unlearn import Unlearned

TRAINING_LOG = "training_log.json"


def unlearn(
    model: str | Path,
    output: Path,
    *,
    method: str,
    forget: Sequence[Example],
    retain: Sequence[Example] = (),
    refusals: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    rule: dict[str, Any] | None = None,
    tricks: dict[str, float] | None = None,
    stop: dict[str, Any] | None = None,
    **loading: Any,
) -> Path:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads.

    Interrupted, a run with ``checkpoint_every`` goes on from its last checkpoint (in ``OUTPUT.checkpoints``) when it is
    called again. Of a run that diverges the weights of the last finite step are written. Beside the weights stands what
    training did (`training_log.json`): method, settings, how the run ended, each step's losses and gradient norm, and
    the gradient effect where it was asked for.

    Args:
        model: a folder or hub name.
        output: the folder to write.
        method: a registered method.
        forget: what to remove.
        retain: what to keep; needed by methods with a retain term.
        refusals: answers that decline; needed by methods that teach them.
        settings: training settings that differ from the defaults.
        rule: settings of the method's rule that differ from its own; with `name` another rule.
        tricks: trick -> value.
        stop: early stopping: ``at_most``, the forget score to come down to, and further settings of `stop_at`.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: an argument cannot be used, training diverged, or the disk is full.
    """
    from uwc.models.loading import save_target
    from uwc.objectives.methods import get_method
    from uwc.studies.config import stop_settings, training_settings
    from uwc.training.checkpoint import remove_checkpoint
    from uwc.training.data import TrainingData
    from uwc.training.distributed import main_process_writes
    from uwc.training.settings import check_rule, check_stop
    from uwc.training.unlearn import unlearn as unlearn_target

    require_disjoint(forget, retain, names=("forget", "retain"))
    chosen = get_method(method).with_rule(rule or {})
    checked = training_settings(settings or {}, where="training settings")
    check_rule(chosen, checked, where=f"the method {method!r}")
    checkpoints = Path(output).with_name(f"{Path(output).name}.checkpoints")
    stopping = stop_settings(stop, where="early stopping") if stop else None
    if stopping:
        check_stop(chosen, where=f"early stopping of {method!r}")
    if stopping and stopping["tau"] is not None and not retain:
        raise ConfigError("early stopping at a calibrated score (tau) measures retention; give retain questions")
    _require_free(Path(output), model, chosen, checked)
    target = _trainable(model, loading)
    data = TrainingData(forget, retain, refusals)
    done = unlearn_target(
        target, chosen, data, checked, tricks=tricks, checkpoints=checkpoints, stop=_stop_rule(stopping, target, data)
    )
    with main_process_writes() as writes:
        if writes:
            save_target(done.target, output)
            given = {"method": method, "formula": chosen.formula, "rule": asdict(chosen)["rule"]}
            _write_log(Path(output), done, {**given, "tricks": dict(tricks or {}), "training": asdict(checked)})
            remove_checkpoint(checkpoints)
    if done.diverged is not None:
        raise done.diverged
    _tell(done)
    return output


def _trainable(model: str | Path, loading: dict[str, Any]) -> "Target":
    from uwc.models.gradients import let_train
    from uwc.models.ties import require_unquantised

    target: Target = plain_target_of(model, loading)
    require_unquantised(target.model, target.name)
    return replace(target, model=let_train(target.model), name="")  # peft freezes what it puts an adapter on


def _write_log(output: Path, done: "Unlearned", made_by: dict[str, Any]) -> None:
    from uwc.io import finite, write_json

    log = {"log": done.log.steps, "effects": done.log.effects}
    write_json(output / TRAINING_LOG, finite({**made_by, **done.record(), **log}))


def _tell(done: "Unlearned") -> None:
    """Say that the run stopped early or that the model collapsed."""
    if done.log.stopped is not None:
        progress.note(f"stopped after step {done.log.stopped}, at a score of {done.log.steps[-1]['stop_score']:.3g}")
    if done.collapse is not None and done.collapse.collapsed:
        progress.note(
            f"the model collapsed: its perplexity on the retain set rose from {done.collapse.before:.3g} to "
            f"{done.collapse.after:.3g}; lower the learning rate, train less, or calibrate it"
        )


def _require_free(output: Path, model: Any, method: "Method", settings: "TrainingSettings") -> None:
    """Raise ConfigError if writing there would overwrite the model, or leave files by which another kind is loaded, or
    if an adapter would be written whose base is on no disk."""
    from uwc.models.adapters import adapter_config
    from uwc.models.checkpoint_files import ADAPTER, CONTRAST, INDEX, SINGLE
    from uwc.objectives.rules import Contrast

    if isinstance(model, str | Path) and Path(model).resolve() == output.resolve():
        raise ConfigError(f"the output {output} is the model itself; give another folder")
    adapter = settings.lora is not None and settings.lora.save == "adapter"
    if adapter and isinstance(model, str | Path) and adapter_config(model) is not None:
        raise ConfigError(
            f"{model} is an adapter, and a further one (lora.save: adapter) would lack its base; save it merged, or "
            "give the merged model"
        )
    apart = isinstance(method.rule, Contrast)
    leftover = {CONTRAST: not apart, ADAPTER: not adapter, SINGLE: adapter or apart, INDEX: adapter or apart}
    for file, foreign in leftover.items():
        if foreign and (output / file).exists():
            raise ConfigError(f"the output {output} holds a model of another kind ({file}); give another folder")


def _stop_rule(rule: dict[str, Any] | None, target: "Target", data: "TrainingData") -> "StopRule | None":
    from uwc.calibration.stopping import stop_at

    if rule is None:
        return None
    original = replace(target, model=copy.deepcopy(target.model)) if rule["tau"] is not None else None
    return stop_at(forget=data.forget, retain=data.retain, original=original, **rule)
