"""Unlearning from start to end: adapter, training or Mini-Unlearning, contrast, and the check for collapse."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from uwc.errors import ConfigError, TrainingDiverged
from uwc.models.adapters import adapter_config
from uwc.models.checkpoint_files import ADAPTER, CONTRAST, INDEX, SINGLE
from uwc.models.contrast import contrast
from uwc.models.lora import add_adapter, merge_adapter
from uwc.models.mixing import require_unquantised
from uwc.models.model import Model
from uwc.models.scoring import let_train
from uwc.objectives.methods import Method
from uwc.objectives.objective import Objective
from uwc.objectives.rules import Contrast, MiniUnlearning
from uwc.results import Collapse
from uwc.training.callbacks import StopRule, collapse, retain_perplexity
from uwc.training.data import TrainingData
from uwc.training.loop import TrainingLog, train
from uwc.training.mini_unlearning import mini_unlearn
from uwc.training.settings import TrainingSettings, check_rule


@dataclass(frozen=True)
class Unlearned:
    """How an unlearning run ended.

    Attributes:
        model: the model to keep; of a diverged run that of the last finite step.
        log: what training did, as far as it went.
        diverged: where it diverged, if it did.
        collapse: retain perplexity before and after, where there are retain examples.
    """

    model: Model
    log: TrainingLog
    diverged: TrainingDiverged | None
    collapse: Collapse | None


def unlearn(
    model: Model,
    method: Method,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    tricks: Mapping[str, float] | None = None,
    checkpoints: Path | None = None,
    frozen: Any = None,
    stop: StopRule | None = None,
) -> Unlearned:
    """Unlearn the forget examples from a model, in place or with an adapter.

    Args:
        model: the model; its weights change, unless an adapter is trained and kept apart.
        method: the terms and the rule.
        data: the examples.
        settings: the optimisation; with `lora` only an adapter is trained, and merged at the end or kept.
        tricks: trick -> value.
        checkpoints: a folder for checkpoints; see `uwc.training.loop.train`.
        frozen: a frozen copy of the original model to share between runs.
        stop: ends the run early at a chosen score.

    Raises:
        DataError: the method needs data that is empty, or an example does not fit into the context.
        ConfigError: a trick, setting or rule cannot be used.
    """
    rule, lora = method.rule, settings.lora
    check_rule(method, settings, where=f"the method {method.name!r}")
    before = retain_perplexity(model, data.retain) if data.retain else None
    original = copy.deepcopy(model.model) if isinstance(rule, Contrast) else None
    if lora is not None:
        chosen = {name: value for name, value in asdict(lora).items() if name != "save"}
        model = add_adapter(model, **chosen, seed=settings.seed)
    objective = Objective(method, model.model, trick_settings=tricks)
    log, diverged = TrainingLog(), None
    try:
        if isinstance(rule, MiniUnlearning):
            mini_unlearn(model, objective, data, settings, log=log)
        else:
            train(model, objective, data, settings, checkpoints=checkpoints, frozen=frozen, stop=stop, log=log)
    except TrainingDiverged as error:
        diverged = error
    if lora is not None and lora.save == "merged":
        model = merge_adapter(model)
    if isinstance(rule, Contrast):
        model = contrast(replace(model, model=original), model, strength=rule.strength)
    after = None if before is None else collapse(before, retain_perplexity(model, data.retain))
    return Unlearned(model, log, diverged, after)


def trainable(model: Model) -> Model:
    """A plain model that may be trained, without a name. Raises ModelError if it is quantised."""
    require_unquantised(model.model, model.name)
    return replace(model, model=let_train(model.model), name="")  # peft freezes what it puts an adapter on


def require_free(output: Path, model: Any, method: Method, settings: TrainingSettings) -> None:
    """Raise ConfigError if writing there would overwrite the model, or leave files by which another kind is loaded, or
    if an adapter would be written whose base is on no disk."""
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
