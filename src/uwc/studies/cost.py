"""The work of a study's steps, counted before they run: operations, bytes moved, passes through blocks, disk, memory.

Everything is counted from the plan and the sizes of the model. Lengths in tokens are those in characters divided by
`CHARACTERS`, so that no tokenizer is needed.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, log2
from pathlib import Path
from typing import Any

from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.formats import EXPONENTS
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.samples import SAMPLES, LeakSettings
from uwc.metrics.scored import TEXTS, needs_of, variants_of
from uwc.objectives.registry import ROLES, role_of, terms
from uwc.objectives.rules import Gru, Lat, Rule, Sam, Undo
from uwc.registry import Entry
from uwc.studies.plan import Plan
from uwc.studies.sections import FORGET_SETS, CalibrateConfig
from uwc.studies.steps import Attack, Build, Calibrate, Depth, FineTune, Score, Sets, Step, Tune, Unlearn
from uwc.training.settings import TrainingSettings

CHARACTERS = 4.5
"""Characters of English a token of a pretrained tokenizer."""
CHARACTERS_OF_BUILT = 3.5
"""The same of the small tokenizer of a built model."""
TEMPLATE, TEMPLATE_OF_BUILT = 24, 6
"""Tokens of the prompt template of a given and of a built model."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BUDGET = {"cpu": (2048, 8192), "cuda": (1 << 15, 1 << 15)}
"""The most tokens in a batch that is scored, and in one that is continued, by device; see `uwc.models.batching`."""
PROCESS = 0.6e9
"""Bytes of the libraries alone."""
KEPT = {"cpu": 1.6, "cuda": 1.0}
"""Memory of a process, without the libraries, as a multiple of what a step needs: gaps, and what earlier steps left."""
TILES = {"cpu": 16 << 20, "cuda": 1 << 30}
"""Bytes of logits in tiles; see `uwc.models.head`."""
_NUMBERS_A_TOKEN_KEPT = 40


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer.

    Attributes:
        layers, hidden, vocabulary: L, d, V.
        queries, keys: the widths of all query heads and of all key heads.
        inner: the width between the matrices of a feed-forward part.
        gated: whether it has three matrices instead of two.
        tied: whether input and output embedding are one matrix.
        dtype: the precision of the weights in the checkpoint.
    """

    layers: int
    hidden: int
    vocabulary: int
    queries: int
    keys: int
    inner: int
    gated: bool = True
    tied: bool = False
    dtype: str = "float32"

    @property
    def blocks(self) -> int:
        """The parameters of all blocks: ``L (2 d q + 2 d k + (3 or 2) d f)``; norms and biases are left out."""
        of_attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (of_attention + (3 if self.gated else 2) * self.hidden * self.inner)

    @property
    def products(self) -> int:
        """The sum of ``out in^2`` over the matrices of all blocks: half the operations of their products with X^T X."""
        d, q, k, f = self.hidden, self.queries, self.keys, self.inner
        return self.layers * (d**2 * (q + 2 * k) + q**2 * d + (2 if self.gated else 1) * d**2 * f + f**2 * d)

    @property
    def head(self) -> int:
        """The parameters of the output embedding, ``V d``."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.blocks + self.head * (1 if self.tied else 2)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], *, where: str) -> "Shape":
        """The sizes in a model's ``config.json``. Raises ConfigError, naming `where`, if one is missing."""
        if not isinstance(config, Mapping):
            raise ConfigError(f"{where} is not the configuration of a model; give a folder with a whole model")
        inner = config.get("text_config")
        config = {**config, **(inner if isinstance(inner, Mapping) else {})}

        def size(*names: str, default: int | None = None) -> int:
            for name in names:
                if isinstance(value := config.get(name), int) and value > 0:
                    return value
            if default is None:
                raise ConfigError(f"{where} has no {names[0]}, so that the cost of the model cannot be counted; add it")
            return default

        hidden = size("hidden_size", "n_embd", "d_model")
        heads = size("num_attention_heads", "n_head", "num_heads")
        width = size("head_dim", default=hidden // heads)
        dtype = str(config.get("dtype") or config.get("torch_dtype"))
        activation = str(config.get("hidden_act", config.get("activation_function", "silu")))
        return cls(
            layers=size("num_hidden_layers", "n_layer", "num_layers"),
            hidden=hidden,
            vocabulary=size("vocab_size"),
            queries=heads * width,
            keys=size("num_key_value_heads", default=heads) * width,
            inner=size("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
            gated=activation in ("silu", "swish", "gelu_pytorch_tanh") and "n_embd" not in config,
            tied=bool(config.get("tie_word_embeddings", "n_embd" in config)),
            dtype=dtype if dtype in BYTES else "float32",
        )


def shape_of(plan: Plan) -> Shape:
    """The sizes of a study's models. Raises ConfigError if its configuration cannot be read."""
    build = plan.config.model.build
    if build is not None:  # a Llama, see `uwc.models.load.build_model`
        wide = build.hidden_size
        return Shape(build.layers, wide, build.vocabulary, queries=wide, keys=wide, inner=3 * wide, tied=True)
    path = str(plan.config.model.path)
    file = Path(path) / "config.json"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(path, "config.json"))
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise ConfigError(
                f"model.path: the config.json of {path!r} cannot be read: {reason}; correct the name, or give a folder"
            ) from error
    try:
        return Shape.of_config(json.loads(file.read_text(encoding="utf-8")), where=str(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: {file} cannot be read ({error}); give a folder with a whole model") from error


@dataclass(frozen=True)
class Work:
    """Counted work; sums are by field.

    Attributes:
        training, training_half: operations of passes with gradients in the weights' precision, and in half precision
            (autocast).
        training_bytes: bytes that the optimizer and logits move.
        scoring, scoring_bytes: operations of passes without gradients over known tokens, and bytes moved.
        decoding, decoding_bytes: the same of generation, token by token.
        passes: passes through one block, that is, groups of small kernels.
        steps: steps of a study.
        disk: bytes of the result.
        seconds: what takes this time on every machine.
    """

    training: float = 0.0
    training_half: float = 0.0
    training_bytes: float = 0.0
    scoring: float = 0.0
    scoring_bytes: float = 0.0
    decoding: float = 0.0
    decoding_bytes: float = 0.0
    passes: float = 0.0
    steps: float = 0.0
    disk: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> "Work":
        return Work(*(factor * getattr(self, f.name) for f in fields(self)))

    @property
    def flops(self) -> float:
        """All operations."""
        return self.training + self.training_half + self.scoring + self.decoding


def total(parts: Iterable[Work]) -> Work:
    """The sum."""
    return sum(parts, Work())


@dataclass(frozen=True)
class Cost:
    """The cost of a step.

    Attributes:
        parts: part -> its work: "training", "answers", "texts", "samples", "letters", "search" and others.
        memory: bytes at the peak.
    """

    parts: Mapping[str, Work]
    memory: float

    @property
    def work(self) -> Work:
        """The work of the whole step."""
        return total(self.parts.values())


@dataclass(frozen=True)
class _Length:
    """Tokens of a question: of its prompt, its answer, and all answers that are scored."""

    prompt: float
    answer: float
    answers: float


class Counter:
    """Counts the work of the steps of a plan.

    Args:
        plan: the plan.
        shape: the sizes of its models.
        device: "cpu" or "cuda", whose batches differ.

    Attributes:
        dtype: the precision of the weights in memory.
        bytes: of a number in it.
    """

    def __init__(self, plan: Plan, shape: Shape, *, device: str = "cpu") -> None:
        loading = plan.config.model
        self.shape, self.device = shape, device
        self.dtype = shape.dtype if loading.dtype == "auto" else loading.dtype
        self.bytes = BYTES[self.dtype]
        built = loading.build is not None
        self._characters = CHARACTERS_OF_BUILT if built else CHARACTERS
        self._template = TEMPLATE_OF_BUILT if built else TEMPLATE
        self._scored_budget, self._continued_budget = BUDGET[device]
        self._known: dict[tuple[int, bool, bool], tuple[Example, _Length]] = {}

    @property
    def weights(self) -> float:
        """The bytes of one model."""
        return float(self.shape.parameters * self.bytes)

    def cost(self, step: Step) -> Cost:
        """The cost of a step; nothing for a given model."""
        if isinstance(step, Build):
            return Cost({"step": Work(steps=1, disk=self.weights)}, self._memory(self.weights))
        if isinstance(step, FineTune):
            return self._training_step(step.training, self._fine_tuning(step.answers, step.training), step.answers)
        if isinstance(step, Unlearn):
            return self._unlearning_step(step)
        if isinstance(step, Tune):
            return self._tune_step(step)
        if isinstance(step, Score):
            same = step.model is step.original
            parts = self._evaluation(step.evaluation, reference=not same)
            needed = (1 if same else 2) * self.weights + self._batch(step.evaluation.work.sets)
            return Cost({**parts, "step": Work(steps=1)}, self._memory(needed))
        if isinstance(step, Calibrate):
            work = step.evaluation.work
            searched = self._search(step.retention, work.sets, work.max_new_tokens)
            parts = {**self._evaluation(step.evaluation, reference=True), "search": searched}
            models = 2  # the mixture, into which both checkpoints are read in blocks, and the original to compare with
            needed = models * self.weights + self._batch(step.evaluation.work.sets)
            return Cost({**parts, "step": Work(steps=1)}, self._memory(needed))
        if isinstance(step, Depth):
            return self._depth_step(step)
        if isinstance(step, Attack):
            return self._attack_step(step)
        return Cost({}, 0.0)

    # lengths

    def _tokens(self, text: str) -> float:
        return max(1.0, len(text) / self._characters)

    def _length(self, example: Example, needs: Collection[str] = ()) -> _Length:
        key = (id(example), "restated" in needs, "perturbed" in needs)
        if key not in self._known:  # the example is kept, so that no other has its id
            self._known[key] = (example, self._counted(example, needs))
        return self._known[key][1]

    def _counted(self, example: Example, needs: Collection[str]) -> _Length:
        asked = example.question + example.prefill + "".join(text for _, text in example.history)
        prompt = self._template + self._tokens(asked)
        texts: list[str] = []
        for variant in variants_of(needs):
            found = getattr(example, variant)
            texts += [found] if isinstance(found, str) else list(found)
        return _Length(prompt, self._tokens(example.answer), sum(self._tokens(text) + 1 for text in texts if text))

    def _mean(self, examples: Sequence[Example]) -> _Length:
        lengths, count = [self._length(e) for e in examples], max(len(examples), 1)
        sums = (sum(x.prompt for x in lengths), sum(x.answer for x in lengths), sum(x.answers for x in lengths))
        return _Length(*(of_all / count for of_all in sums))

    # passes

    def _pass(self, tokens: float, logits: float, *, share: float = 1.0) -> tuple[float, float]:
        """Operations and bytes of a forward pass: ``2 n P`` a matrix of P numbers, and logits that are read thrice.

        Args:
            tokens: all tokens.
            logits: those whose logits are computed.
            share: of the blocks that are run.
        """
        operations = 2.0 * (tokens * self.shape.blocks * share + logits * self.shape.head)
        return operations, 3.0 * logits * self.shape.vocabulary * 4

    def scored(self, tokens: float, logits: float, *, share: float = 1.0) -> Work:
        """A teacher-forced pass in batches that fit the budget."""
        operations, moved = self._pass(tokens, logits, share=share)
        batches = ceil(tokens / self._scored_budget) if tokens else 0
        moved += batches * share * self.weights
        return Work(scoring=operations, scoring_bytes=moved, passes=batches * self.shape.layers * share)

    def _generated(self, examples: Sequence[Example], most: int, *, times: int = 1) -> Work:
        """Answers of at most `most` tokens: of each one and a half times the true answer's, in each batch as many steps
        as twice the longest true answer has tokens. A prompt is computed once for its answers."""
        if not examples or not most:
            return Work()
        lengths = [self._length(e) for e in examples]
        prompt = sum(x.prompt for x in lengths)
        added = sum(min(most, 1.5 * x.answer + 4) for x in lengths) * times
        steps = min(most, 2 * max(x.answer for x in lengths) + 4)
        rows = max(1.0, self._continued_budget // (prompt / len(lengths) + most))
        batches = ceil(len(examples) * times / rows)
        operations, _ = self._pass(added, added)
        cache = 2 * self.shape.layers * self.shape.keys * self.bytes * added * (prompt / len(lengths) + steps / 2)
        moved = batches * steps * self.weights + cache + 3.0 * added * self.shape.vocabulary * 4
        decoded = Work(decoding=operations, decoding_bytes=moved, passes=batches * steps * self.shape.layers)
        return decoded + self.scored(prompt, len(examples))

    def _set(
        self,
        examples: Sequence[Example],
        needs: Collection[str],
        most: int,
        leaks: LeakSettings | None,
        *,
        reference: bool,
    ) -> dict[str, Work]:
        """The parts of scoring a set."""
        lengths = [self._length(e, needs) for e in examples]
        tokens, answers = sum(x.prompt + x.answers for x in lengths), sum(x.answers for x in lengths)
        parts = {"answers": self.scored(tokens, answers) * (2 if reference else 1)}
        parts["answers"] += Work(disk=_NUMBERS_A_TOKEN_KEPT * answers)
        if any(text in needs for text in TEXTS):
            parts["texts"] = self._generated(examples, most)
        if SAMPLES in needs:
            parts["samples"] = self._generated(examples, most, times=(leaks or LeakSettings()).count)
        if "letters" in needs:
            parts["letters"] = self.scored(tokens, len(examples))
        if "similar_from" in needs:
            parts["shortest prefixes"] = self._generated(examples, most) * 6
        if "gradient_norms" in needs:
            forward = self.scored(tokens, answers)
            parts["gradient norms"] = Work(training=3 * forward.scoring, passes=3 * forward.passes)
        if "states" in needs:
            parts["states"] = self.scored(sum(x.prompt for x in lengths), 0)
        return parts

    def _evaluation(self, evaluation: Any, *, reference: bool) -> dict[str, Work]:
        work, found = evaluation.work, dict[str, Work]()
        for name, examples in work.sets.items():
            parts = self._set(examples, work.needs[name], work.max_new_tokens, work.leaks, reference=reference)
            for part, counted in parts.items():
                found[part] = found.get(part, Work()) + counted
        return found

    def _search(self, config: CalibrateConfig, sets: Sets, most: int) -> Work:
        """The mixtures that the search scores: the grid, and the bisection of one of its intervals."""
        probes = config.scan + max(0, ceil(log2(1 / (config.scan * config.resolution))))
        needs = needs_of([config.ranked_by] if config.utility else [config.metric, config.ranked_by])
        names = dict.fromkeys([*(n for n in FORGET_SETS if n in sets), *config.sets])
        parts = [
            counted for name in names for counted in self._set(sets[name], needs, most, None, reference=False).values()
        ]
        return (total(parts) + Work(scoring_bytes=3 * self.weights)) * probes

    def _depth_work(self, examples: Sequence[Example]) -> Work:
        """A pass of each model, and half the blocks for each block that is patched."""
        lengths = [self._length(e) for e in examples]
        tokens, answers = sum(x.prompt + x.answer for x in lengths), sum(x.answer for x in lengths)
        whole = self.scored(tokens, answers) * 2
        return whole + self.scored(tokens, answers, share=0.5) * self.shape.layers

    def _depth_step(self, step: Depth) -> Cost:
        sets = step.work.sets.values()
        states = self._in_batch(step.work.sets) * self.shape.layers * self.shape.hidden * self.bytes
        parts = {"depth": total(self._depth_work(examples) for examples in sets), "step": Work(steps=1)}
        return Cost(parts, self._memory(2 * self.weights + self._batch(step.work.sets) + states))

    # training

    def _trained(
        self, tokens: float, logits: float, training: TrainingSettings, *, steps: float, share: float = 1.0
    ) -> Work:
        """Passes with gradients: thrice the forward pass, four times if it is computed again, twice for an adapter.

        Args:
            tokens, logits: of all steps together.
            training: the settings.
            steps: passes, that is, micro-batches.
            share: of the blocks that are run.
        """
        factor = (2 if training.lora is not None else 3) + (1 if training.gradient_checkpointing else 0)
        operations, moved = self._pass(tokens, logits, share=share)
        half = training.precision != "no"
        return Work(
            training=0.0 if half else factor * operations,
            training_half=factor * operations if half else 0.0,
            training_bytes=3 * moved + factor * steps * share * self.weights,
            passes=factor * steps * self.shape.layers * share,
        )

    def _updates(self, steps: float, training: TrainingSettings) -> Work:
        """The optimizer's reads and writes: weights, gradients and two moments."""
        return Work(training_bytes=7 * steps * self._trainable(training) * self.bytes)

    def _trainable(self, training: TrainingSettings) -> float:
        if training.lora is None:
            return float(self.shape.parameters)
        s = self.shape
        widths = 2 * (s.hidden + s.queries) + 2 * (s.hidden + s.keys) + (3 if s.gated else 2) * (s.hidden + s.inner)
        return float(training.lora.rank * s.layers * widths)

    def _fine_tuning(self, answers: Sequence[Example], training: TrainingSettings) -> Work:
        mean, seen = self._mean(answers), training.epochs * len(answers)
        steps = ceil(seen / training.batch_size)
        passes = steps * ceil(training.batch_size / (training.micro_batch_size or training.batch_size))
        tokens = seen * (mean.prompt + mean.answer)
        return self._trained(tokens, seen * mean.answer, training, steps=passes) + self._updates(steps, training)

    def _training_step(self, training: TrainingSettings, work: Work, examples: Sequence[Example]) -> Cost:
        memory = self._memory(self._training_memory(training, examples, roles=1, reference=False))
        return Cost({"training": work, "step": Work(steps=1, disk=self._saved(training))}, memory)

    def _saved(self, training: TrainingSettings) -> float:
        adapter = training.lora is not None and training.lora.save == "adapter"
        return self._trainable(training) * 4 if adapter else self.weights

    def _unlearning_step(self, step: Unlearn) -> Cost:
        training, batch = step.training, step.training.batch_size
        seen = training.epochs * len(step.forget)
        steps = ceil(seen / batch)
        passes = steps * ceil(batch / (training.micro_batch_size or batch))
        trained, frozen, depth = _reads(step, self.shape.layers)
        work = self._updates(steps, training)
        for role in {**trained, **frozen}:
            mean = self._role(step, role)
            tokens, logits, share = seen * (mean.prompt + mean.answer), seen * mean.answer, depth.get(role, 1.0)
            if role in trained:
                read = 0.0 if share < 1 else logits
                times = _times(step.rule) if ROLES[role].questions == "forget" else 1.0
                work += self._trained(tokens, read, training, steps=passes, share=share) * times
            if role in frozen:
                work += self.scored(tokens, 0.0 if share < 1 else logits, share=share)
        if any(ROLES[role].answers == "samples" for role in trained):
            often = 1 if training.samples.every is None else ceil(steps / training.samples.every)
            work += self._generated(step.forget, training.samples.max_new_tokens, times=training.samples.count * often)
        if training.gradient_effect_every:
            work += Work(training_bytes=8 * steps / training.gradient_effect_every * self.weights)
        mean = self._mean(step.retain)
        checked = self.scored(len(step.retain) * (mean.prompt + mean.answer), len(step.retain) * mean.answer) * 2
        examples = [*step.forget, *step.retain]
        needed = self._training_memory(training, examples, roles=len(trained), reference=bool(frozen))
        kept = {Sam: 1, Gru: 2, Undo: 1 - bool(frozen)}  # copies of weights or gradients
        needed += kept.get(type(step.rule), 0) * self._trainable(training) * self.bytes
        parts = {"training": work, "retain perplexity": checked}
        if training.retain is not None:
            parts["selection"] = self._selected(training.retain.select, step.retain)
        if isinstance(step.rule, Undo):
            parts["distillation"] = self._distilled(step, step.rule)
        return Cost({**parts, "step": Work(steps=1, disk=self._saved(training))}, self._memory(needed))

    def _distilled(self, step: Unlearn, rule: Undo) -> Work:
        """Passes over all tokens of the retain examples, with gradients and of the unlearned model."""
        training, mean, seen = step.training, self._mean(step.retain), rule.epochs * len(step.retain)
        steps, tokens = ceil(seen / training.batch_size), seen * (mean.prompt + mean.answer)
        passes = steps * ceil(training.batch_size / (training.micro_batch_size or training.batch_size))
        trained = self._trained(tokens, tokens, training, steps=passes) + self._updates(steps, training)
        return trained + self.scored(tokens, tokens)

    def _tune_step(self, step: Tune) -> Cost:
        """Its trials: each trains with the run's own settings, and is calibrated, also early if it may be pruned."""
        method = step.config.composition()
        trained = self._unlearning_step(
            Unlearn(
                step.of,
                step.name,
                step.original,
                step.loading,
                method.terms,
                method.rule,
                step.config.tricks,
                step.training(step.config, seed=step.seed),
                None,
                step.forget,
                step.retain,
                step.refusals,
            )
        )
        searched = self._search(step.retention, step.sets, step.max_new_tokens)
        trials, often = step.search.trials, 1 if step.search.prune_at is None else 2
        parts = {"training": trained.parts["training"] * trials, "search": searched * (trials * often)}
        needed = self._memory(4 * self.weights + self._batch(step.sets))
        return Cost({**parts, "step": Work(steps=1)}, max(trained.memory, needed))

    def _role(self, step: Unlearn, name: str) -> _Length:
        role = ROLES[name]
        asked = self._mean(step.forget if role.questions == "forget" else step.retain)
        answer = asked.answer
        if role.answers == "refusals" and step.refusals:
            answer = sum(map(self._tokens, step.refusals)) / len(step.refusals)
        elif role.answers == "retain_answers":
            answer = self._mean(step.retain).answer
        elif role.answers == "samples":
            answer = min(answer * 1.5, step.training.samples.max_new_tokens)
        return _Length(asked.prompt, answer, answer)

    def _training_memory(
        self, training: TrainingSettings, examples: Sequence[Example], *, roles: int, reference: bool
    ) -> float:
        """Weights, gradients, the optimizer's moments, the frozen copy, activations and logits of a micro-batch."""
        s, mean = self.shape, self._mean(examples)
        half = training.precision != "no"
        kept = 2 if half else self.bytes
        trainable = self._trainable(training)
        moments = 2 * (1 if "8bit" in training.optimizer else self.bytes) if "adam" in training.optimizer else 1
        if training.optimizer.startswith("paged") and self.device == "cuda":
            moments = 0  # in host memory
        tokens = (training.micro_batch_size or training.batch_size) * (mean.prompt + mean.answer)
        a_block = (8 * s.hidden + 2 * s.queries + 4 * s.keys + 4 * s.inner) * kept
        blocks = a_block + s.layers * s.hidden * kept if training.gradient_checkpointing else a_block * s.layers
        logits = (training.micro_batch_size or training.batch_size) * mean.answer * s.vocabulary * (kept + 4)
        models = self.weights + trainable * (self.bytes + moments) + (2 * s.parameters if half else 0)
        frozen = (2 * s.parameters if half else self.weights) if reference else 0
        return models + frozen + roles * (tokens * blocks + logits)

    def _memory(self, needed: float) -> float:
        return PROCESS + KEPT[self.device] * needed

    def _in_batch(self, sets: Mapping[str, Sequence[Example]]) -> float:
        """The tokens of the largest batch that is scored."""
        whole = (
            sum(x.prompt + x.answers for x in (self._length(e, ("restated", "perturbed")) for e in examples))
            for examples in sets.values()
        )
        return min(self._scored_budget, max(whole, default=0.0))

    def _batch(self, sets: Mapping[str, Sequence[Example]]) -> float:
        """Activations of a block, logits in tiles, and keys and values of a batch that is continued."""
        s, tokens = self.shape, self._in_batch(sets)
        return tokens * ((4 * s.hidden + 3 * s.inner) + 2 * s.layers * s.keys) * self.bytes + TILES[self.device]

    # attacks

    def _attack_step(self, step: Attack) -> Cost:
        chain = make_chain([name for name, _ in step.attack], dict(step.attack))
        models = 1 + ("reference" in needs_of(step.measured) or step.depth is not None)
        needed = models * self.weights + self._batch(step.sets)
        used = [entry for attack in chain.steps for entry in attack.used]
        if any(entry.name.startswith("relearn") for entry in used):
            settings = _settings()
            needed += self._training_memory(settings, step.data.original, roles=1, reference=False)
        elif any(entry.facts.get("kind") == "weights" for entry in used):
            needed += self.weights
        return Cost({**self._attacked(chain, step), "step": Work(steps=1)}, self._memory(needed))

    def _attacked(self, chain: Chain, step: Attack) -> dict[str, Work]:
        """Part -> the work of an attack and of the scores under it."""
        variants, prepared = 1, Work()
        for attack in chain.steps:
            prepared += self._prepared(attack.entry, attack.settings, step)
            variants *= _variants(attack.entry, attack.settings, self.shape.layers, step.data.questions)
        needs, scored = needs_of(step.measured), step.data.scored
        parts = self._set(scored, needs, step.max_new_tokens, step.leaks, reference="reference" in needs)
        parts = {name: counted * variants for name, counted in parts.items()}
        if step.texts and not any(text in needs for text in TEXTS):
            often = float(variants) if step.texts == "all" else sum(1 / k for k in range(1, variants + 1))
            parts["texts"] = self._generated(scored, step.max_new_tokens) * often
        if step.depth is not None:
            parts["depth"] = self._depth_work(scored) * variants
        return {**parts, "attack": prepared}

    def _searched(self, settings: Mapping[str, Any], step: Attack) -> Work:
        """The search of `strongest`, and the attack that it chooses: as all that the first round tries, in the mean.

        With a budget in minutes the search takes that time. With one in runs each round carries out as many attacks as
        that lets it, with its share of their steps and of the questions to choose on; those that go on to a further
        round take as much as those of the first, in the mean.
        """
        from uwc.attacks.searched import tried_with
        from uwc.attacks.strongest import carried_out, order_of, own_part, part_of, scaled

        owned, tried = tried_with(step.data, settings)
        (fold,) = own_part(step.data.train, step.data.scored, seed=settings["seed"])
        minutes, order = settings["minutes"], order_of(len(tried), seed=settings["seed"])
        rounds = carried_out(len(tried), settings["runs"])
        among = [tried[i].chain for i in (order if minutes else order[: rounds[0][1]])]

        def under(share: float, scored: Sequence[Example]) -> list[dict[str, Work]]:
            """Part -> work, for each attack with a share of its steps."""
            so = replace(
                step,
                measured=(settings["metric"],),
                data=replace(owned, scored=scored),
                max_new_tokens=settings["max_new_tokens"],
                texts=False,
                leaks=None,
                depth=None,
            )
            return [self._attacked(scaled(chain, share), so) for chain in among]

        chosen = total(parts["attack"] for parts in under(1.0, step.data.scored)) * (1 / len(among))
        if minutes:
            return Work(seconds=60 * minutes) + chosen
        for share, count in rounds:
            every = total(work for parts in under(share, part_of(fold.choice, share)) for work in parts.values())
            chosen += replace(every, disk=0.0) * (count / len(among))
        return chosen

    def _selected(self, rule: str, pool: Sequence[Example]) -> Work:
        """A pass over the examples out of which some are chosen; for Fisher information also its gradients."""
        if rule == "random":
            return Work()
        mean = self._mean(pool)
        answers = len(pool) * mean.answer * (2 if rule == "fisher" else 1)
        return self.scored(len(pool) * (mean.prompt + mean.answer), answers)

    def _prepared(self, entry: Entry[Any], settings: Mapping[str, Any], step: Attack) -> Work:
        """The work of an attack before anything is scored."""
        pool = [*step.data.train, *step.data.retain]
        if entry.name.startswith("relearn"):
            pool = _relearned(entry.name, step)
        elif entry.name == "gcg":
            pool = list(step.data.train)
        return self._selected(settings.get("select", "random"), pool) + self._carried_out(entry, settings, step)

    def _carried_out(self, entry: Entry[Any], settings: Mapping[str, Any], step: Attack) -> Work:
        name, data, shape = entry.name, step.data, self.shape
        if name.startswith("relearn"):
            pool = _relearned(name, step)[: settings.get("examples")]
            batch = settings["batch_size"]
            per_epoch = ceil(len(pool) / batch)
            steps = settings.get("steps") or max(settings.get("budgets") or (), default=per_epoch)
            training = _settings(epochs=max(1, steps) / max(1, per_epoch), batch_size=batch)
            return self._fine_tuning(pool, training) + Work(scoring_bytes=3 * self.weights)
        if name in ("gcg", "gcg_per_question"):
            asked = list(data.train)[: settings["questions"]] if name == "gcg" else list(data.scored)
            mean = self._mean(asked)
            steps = max(settings.get("budgets") or (), default=settings["steps"])
            answer = min(mean.answer, settings.get("target_tokens") or mean.answer)
            tokens = (mean.prompt + 20 + answer) * len(asked) * steps
            tried = self.scored(tokens * settings["candidates"], answer * len(asked) * steps * settings["candidates"])
            gradient, moved = self._pass(tokens, answer * len(asked) * steps)
            passes = 3 * len(asked) * steps * shape.layers
            return tried + Work(training=3 * gradient, training_bytes=3 * moved, passes=passes)
        if name == "strongest":
            return self._searched(settings, step)
        if name in _TALKING:
            return self._generated(data.scored, settings["max_new_tokens"]) * int(settings["turns"])
        if name == "evolution":
            from uwc.attacks.evolution import REWRITE_TOKENS, searched

            prompts, rewrites = searched(settings)
            asked = list(data.train)[: settings["examples"]]
            written = self._generated(data.train[:1], REWRITE_TOKENS) * float(rewrites)
            return self._generated(asked, settings["max_new_tokens"]) * float(prompts + 1) + written
        if name == "planning":
            asked = list(data.retain)[: settings["examples"]]
            mean = self._mean(asked)
            read = self.scored(2 * len(asked) * (mean.prompt + mean.answer), 0)
            drawn = ceil(settings["rollouts"] * settings["horizon"] / settings["stride"])
            further = self._generated(data.scored, step.max_new_tokens, times=drawn - 1) if drawn > 1 else Work()
            return self._generated(asked, settings["max_new_tokens"]) + read + further
        known = [*data.train, *data.retain]
        mean = self._mean(known)
        tokens, answers = len(known) * (mean.prompt + mean.answer), len(known) * mean.answer
        if name == "probe":
            depths = len(settings["layers"]) or 3
            heads = depths * settings["epochs"] * answers
            steps = ceil(answers / settings["positions"]) * settings["epochs"] * depths
            moved = 3 * heads * shape.vocabulary * 4 + 7 * steps * shape.head * 4
            trained = Work(training=6 * heads * shape.head, training_bytes=moved)
            return self.scored(tokens, 0) * depths + trained
        if name == "soft_prompt":
            seen = settings["steps"] * settings["batch_size"]
            training = _settings(batch_size=settings["batch_size"])
            asked = seen * (mean.prompt + mean.answer + settings["tokens"])
            return self._trained(asked, seen * mean.answer, training, steps=settings["steps"])
        if name in ("quantization_gptq", "quantization_awq"):
            mean = self._mean(list(data.retain))
            tokens = min(len(data.retain), settings["examples"]) * (mean.prompt + mean.answer)
            rounds = Work(scoring=(2 * len(EXPONENTS) if name == "quantization_awq" else 1) * shape.products)
            return self.scored(tokens, 0) * ceil(shape.layers / 2) + rounds + Work(scoring_bytes=3 * self.weights)
        if name == "direction_ablation":
            return self.scored(tokens, 0) * 2
        return Work(scoring_bytes=3 * self.weights) if entry.facts["kind"] == "weights" else Work()


_TALKING = ("self_correction", "dialogue")
"""Attacks that have a variant for each turn of a conversation."""


def _settings(**given: Any) -> TrainingSettings:
    return TrainingSettings(**given)


def _times(rule: Rule | None) -> float:
    """How often a pass over forget questions is computed, in passes with gradients of weights.

    An inner step of latent adversarial training has gradients of states, two thirds of such a pass.
    """
    return 2.0 if isinstance(rule, Sam) else 1 + rule.steps * 2 / 3 if isinstance(rule, Lat) else 1.0


def _reads(step: Unlearn, layers: int) -> tuple[dict[str, None], dict[str, None], dict[str, float]]:
    """The roles that are trained on, those that the frozen copy reads, and the share of blocks that a role needs."""
    trained, frozen = dict[str, None](), dict[str, None]()
    only_states: dict[str, float] = {}
    for term in step.terms:
        for need in terms.get(term.term).facts["needs"]:
            role = term.roles.get(role_of(need), role_of(need))
            what = need.partition(".")[2]
            if what == "tokens":
                continue  # without a pass
            (frozen if what.startswith("reference") else trained)[role] = None
            layer = term.settings.get("layer") or ceil(layers / 2)
            share = min(1.0, layer / layers) if what.endswith("states") else 1.0
            only_states[role] = max(only_states.get(role, 0.0), share)
    return trained, frozen, only_states


def _relearned(name: str, step: Attack) -> list[Example]:
    data = step.data
    pools: dict[str, Sequence[Example]] = {
        "relearn": data.train,
        "relearn_original": data.original or [*data.scored, *data.train, *data.retain],
        "relearn_forget": data.forget,
        "relearn_retain": data.retain,
        "relearn_unrelated": data.unrelated,
    }
    return list(pools.get(name, data.train))


def _variants(entry: Entry[Any], settings: Mapping[str, Any], layers: int, forms: Collection[str]) -> int:
    """The variants that an attack yields; `forms` are those of the questions."""
    if entry.name in _TALKING:
        return int(settings["turns"])
    if entry.name == "evolution":
        return int(settings["best"])
    if entry.name == "rewritten":
        return len(settings["forms"] or forms)
    if entry.name == "jailbreak":
        from uwc.attacks.prompts import TEMPLATES

        return sum(not settings["kinds"] or template.kind in settings["kinds"] for template in TEMPLATES)
    if entry.name == "sampling":
        return int(settings["samples"])
    budgets, chosen = settings.get("budgets"), settings.get("layers")
    if isinstance(budgets, Collection) and budgets:
        return len(set(budgets))
    if isinstance(chosen, Collection):
        return len(chosen) or (max(layers - 1, 1) if entry.name == "logit_lens" else 3)
    return 1
