"""What each kind of step does: a function of its settings, its inputs' folders and the benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uwc.calibration.calibrate import calibrate
from uwc.calibration.stopping import stop_at
from uwc.data.benchmark import FORGET, RETAIN, Benchmark
from uwc.data.prompts import PromptTemplate
from uwc.io import finite, write_json
from uwc.metrics.scoring import score_set
from uwc.models.adapters import attach_adapter
from uwc.models.building import build_target
from uwc.models.loading import load_target, parameter_count, save_target
from uwc.models.mixing import Mixing
from uwc.models.pairs import open_mixing
from uwc.models.reading import differences, load_both, load_reading
from uwc.models.target import Target
from uwc.objectives.methods import FINE_TUNING, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.studies.attack_steps import attack
from uwc.studies.calibrate_config import FORGET_SETS
from uwc.studies.config import ORIGINAL
from uwc.studies.plan import MODEL, Plan, Step, scored_sets
from uwc.studies.shelf import Shelf
from uwc.studies.store import Store
from uwc.training.loading import TrainingData
from uwc.training.loop import train
from uwc.training.reference import frozen_copy, needs_frozen_copy
from uwc.training.settings import TrainingSettings
from uwc.training.stopping import StopRule
from uwc.training.unlearning import unlearn as unlearn_target


@dataclass(frozen=True)
class Workshop:
    """What a step may use: the plan, where results are kept, and the models that are held between steps."""

    plan: Plan
    store: Store
    shelf: Shelf = field(default_factory=Shelf)

    def model(self, step: Step, *, like: Step) -> Target:
        """Load the model that a step made or names, in the precision and on the device of the step `like`.

        An adapter is put on the study's original, as a peft model. A given model is read as the original is.
        """
        path, name = self._path(step), _name(step)
        if _is_adapter(step):
            return replace(attach_adapter(self.model(step.inputs["base"], like=like), path), name=name)
        reading, original = None, like.inputs.get("original")
        if step.kind == "checkpoint" and original is not None and step.key != original.key:
            template, trust = (self._loading(original, like)[key] for key in ("template", "trust_remote_code"))
            reading = load_reading(self._path(original), template=template, trust_remote_code=trust)
        return load_target(path, name=name, reading=reading, **self._loading(step, like))

    def read_otherwise(self, step: Step, *, like: Step) -> list[str]:
        """What a given model's own tokenizer and prompt have otherwise than the original's, with which it is read."""
        original = like.inputs["original"]
        if step.kind != "checkpoint" or step.key == original.key:
            return []
        trust = self._loading(original, like)["trust_remote_code"]
        ours, theirs = load_both(self._path(original), self._path(step), trust_remote_code=trust)
        if theirs is None:
            return [] if _is_adapter(step) else ["no tokenizer of its own that can be read"]
        return differences(theirs, ours)

    def _loading(self, step: Step, like: Step) -> dict[str, Any]:
        return {
            "dtype": like.settings["dtype"],
            "device": like.settings["device"],
            "template": PromptTemplate(**like.settings["prompt"]),
            "trust_remote_code": step.kind == "checkpoint" and bool(step.settings["trust"]),
        }

    def _path(self, step: Step) -> str:
        given = step.kind == "checkpoint"
        return str(step.settings["path"] if given else self.store.folder(step.kind, step.key) / MODEL)

    def original(self, step: Step) -> Target:
        """The original model that a step compares with, held for those after it; its weights must stay as they are."""
        original = step.inputs["original"]

        def load() -> Target:
            target = self.model(original, like=step)
            target.model.requires_grad_(False)
            return target

        target: Target = self.shelf.get(("original", original.key), load)
        return target

    def mixing(self, step: Step, unlearned: Step) -> Mixing:
        """What mixes the original with an unlearned model, from their files, as `open_mixing` does."""
        original = step.inputs["original"]
        return open_mixing(
            self._path(original), self._path(unlearned), shared=lambda: self.original(step), name=_name(unlearned),
            **self._loading(original, step),
        )  # fmt: skip

    def frozen(self, step: Step, objective: Objective, settings: TrainingSettings) -> Any:
        """The frozen copy of the original that a run needs at every step, held for those after it; None without need.

        In the weights' own precision it is the model that scores are compared with, too.
        """
        original = step.inputs["original"]
        if not needs_frozen_copy(objective, settings):
            self.shelf.keep()
            return None
        if settings.precision == "no":
            self.shelf.keep(("original", original.key))
            return self.original(step).model
        key = ("frozen", original.key, settings.precision)
        self.shelf.keep(key)
        return self.shelf.get(key, lambda: frozen_copy(self.model(original, like=step).model, settings))


def _is_adapter(step: Step) -> bool:
    return step.kind == "checkpoint" and "base" in step.inputs


def _name(step: Step) -> str:
    """What messages call the model of a step: a given original has a step of another name."""
    return ORIGINAL if step.name == "base model" and step.kind == "checkpoint" else step.name.split(" ", 1)[-1]


def build(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Make the small model and its tokenizer."""
    names = ("vocabulary", "hidden_size", "layers", "heads", "context", "initializer_range", "seed")
    target = build_target(
        shop.plan.benchmark.training_examples(with_forget=True),
        template=PromptTemplate(**step.settings["prompt"]),
        **{name: step.settings[name] for name in names},
    )
    save_target(target, out / MODEL)
    return {"parameters": parameter_count(target.model)}


def finetune(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Train on the benchmark's answers, with or without the forget set."""
    target = shop.model(step.inputs["base"], like=step)
    examples = shop.plan.benchmark.training_examples(with_forget=step.settings["with_forget"])
    settings = TrainingSettings(**step.settings["training"])
    checkpoints = shop.store.checkpoints(step.kind, step.key)
    objective = Objective(FINE_TUNING, target.model)
    log = train(target, objective, TrainingData(retain=examples), settings, checkpoints=checkpoints)
    save_target(target, out / MODEL)
    write_json(out / "log.json", log.steps)
    return {}


def unlearn(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Unlearn the forget set. Divergence is a result: the weights of the last finite step are kept."""
    target, settings = shop.model(step.inputs["original"], like=step), TrainingSettings(**step.settings["training"])
    method = Method(step.name.split(" ", 1)[-1], "", "", tuple(WeightedTerm.of(t) for t in step.settings["terms"]))
    benchmark = shop.plan.benchmark
    data = TrainingData(benchmark[FORGET], benchmark[RETAIN], benchmark.refusals)
    frozen = shop.frozen(step, Objective(method, target.model), settings)
    done = unlearn_target(
        target, method, data, settings, tricks=step.settings["tricks"], frozen=frozen,
        checkpoints=shop.store.checkpoints(step.kind, step.key), stop=_stop_rule(step, shop, benchmark),
    )  # fmt: skip
    write_json(out / "log.json", finite(done.log.steps))  # fp16 logs an infinite gradient for a step it skips
    if done.log.effects:
        write_json(out / "effects.json", finite(done.log.effects))
    save_target(done.target, out / MODEL)
    return done.record()


def _stop_rule(step: Step, shop: Workshop, benchmark: Benchmark) -> StopRule | None:
    wanted = step.settings["stop"]
    if wanted is None:
        return None
    original = shop.original(step) if wanted["tau"] is not None else None
    retain = benchmark[benchmark.retention]
    return stop_at(forget=benchmark[FORGET], retain=retain, original=original, **wanted)


def score(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Score a model on every set."""
    model, original = step.inputs["model"], step.inputs["original"]
    reference = shop.original(step)
    target = reference if model == original else shop.model(model, like=step)
    _score_sets(target, reference, step, shop, out)
    told = {"parameters": parameter_count(target.model), "vocabulary": len(target.tokenizer)}
    otherwise = shop.read_otherwise(model, like=step)
    return {**told, "read_otherwise": otherwise} if otherwise else told


def calibrate_step(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Find the calibrated mixture, and score it on every set."""
    config, mixing = shop.plan.config.calibration, shop.mixing(step, step.inputs["model"])
    sets, max_new_tokens = scored_sets(shop.plan.benchmark), step.settings["max_new_tokens"]
    found = calibrate(
        mixing,
        config.measures(sets, max_new_tokens=max_new_tokens),
        {name: sets[name] for name in FORGET_SETS if name in sets},
        tau=config.tau,
        metric=config.ranked_by,
        scan=config.scan,
        resolution=config.resolution,
        max_new_tokens=max_new_tokens,
    )
    found.save(out)
    _score_sets(mixing.mix(found.alpha), shop.original(step), step, shop, out)
    return {"alpha": found.alpha}


def _score_sets(target: Target, reference: Target, step: Step, shop: Workshop, out: Path) -> None:
    for name, examples in scored_sets(shop.plan.benchmark).items():
        score_set(
            target, examples, needs=step.settings["needs"], reference=reference,
            max_new_tokens=step.settings["max_new_tokens"],
        ).save(out, name)  # fmt: skip


STEP_FUNCTIONS: Mapping[str, Callable[[Step, Workshop, Path], dict[str, Any]]] = {
    "build": build,
    "finetune": finetune,
    "unlearn": unlearn,
    "score": score,
    "calibrate": calibrate_step,
    "attack": attack,
}
