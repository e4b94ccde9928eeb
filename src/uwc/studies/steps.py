"""What each kind of step does: a function of its settings, its inputs' folders and the benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uwc.calibration.calibrate import calibrate
from uwc.calibration.frontier import save_probes
from uwc.calibration.stopping import stop_at
from uwc.data.benchmark import FORGET, RETAIN, Benchmark
from uwc.data.prompts import PromptTemplate
from uwc.metrics.scoring import score_set
from uwc.models.building import build_target
from uwc.models.loading import load_target, parameter_count, save_target
from uwc.models.target import Target
from uwc.objectives.methods import FINE_TUNING, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.studies.plan import MODEL, PROBES, Plan, Step, scored_sets
from uwc.studies.store import Store, write_json
from uwc.training.loading import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings
from uwc.training.stopping import StopRule
from uwc.training.unlearning import unlearn as unlearn_target


@dataclass(frozen=True)
class Workshop:
    """What a step may use: the plan, and where results are kept."""

    plan: Plan
    store: Store

    def model(self, step: Step, *, like: Step) -> Target:
        """Load the model that a step made or names, in the precision and on the device of the step `like`."""
        if step.kind == "checkpoint":
            path, trust = str(step.settings["path"]), bool(step.settings["trust"])
        else:
            path, trust = str(self.store.folder(step.kind, step.key) / MODEL), False
        return load_target(
            path,
            dtype=like.settings["dtype"],
            device=like.settings["device"],
            template=PromptTemplate(**like.settings["prompt"]),
            trust_remote_code=trust,
            name=step.name.split(" ", 1)[-1],
        )


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
    stop = _stop_rule(step, shop, benchmark)
    checkpoints = shop.store.checkpoints(step.kind, step.key)
    done = unlearn_target(
        target, method, data, settings, tricks=step.settings["tricks"], checkpoints=checkpoints, stop=stop
    )
    write_json(out / "log.json", done.log.steps)
    if done.log.effects:
        write_json(out / "effects.json", done.log.effects)
    save_target(done.target, out / MODEL)
    return done.record()


def _stop_rule(step: Step, shop: Workshop, benchmark: Benchmark) -> StopRule | None:
    wanted = step.settings["stop"]
    if wanted is None:
        return None
    original = shop.model(step.inputs["original"], like=step) if wanted["tau"] is not None else None
    retain = benchmark[benchmark.retention]
    return stop_at(forget=benchmark[FORGET], retain=retain, original=original, **wanted)


def score(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Score a model on every set."""
    model, original = step.inputs["model"], step.inputs["original"]
    target = shop.model(model, like=step)
    reference = target if model == original else shop.model(original, like=step)
    _score_sets(target, reference, step, shop, out)
    return {"parameters": parameter_count(target.model), "vocabulary": len(target.tokenizer)}


def calibrate_step(step: Step, shop: Workshop, out: Path) -> dict[str, Any]:
    """Find the calibrated mixture, and score it on every set."""
    original = shop.model(step.inputs["original"], like=step)
    unlearned = shop.model(step.inputs["model"], like=step)
    sets = scored_sets(shop.plan.benchmark)
    watched = {name: sets[name] for name in ("forget_paraphrased",) if name in sets}
    calibration, mixed = calibrate(
        original,
        unlearned,
        retain=sets["retain"],
        forget=sets["forget"],
        watched=watched,
        curve=True,
        **step.settings["calibrate"],
    )
    save_probes(out / PROBES, calibration.alphas, dict(calibration.probed))
    write_json(out / "calibration.json", {**calibration.record(), "set": "retain"})
    _score_sets(mixed, original, step, shop, out)
    return {"alpha": calibration.alpha}


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
}
