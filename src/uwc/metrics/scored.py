"""Scored sets: the stored output of a model on a set of examples, its metrics, and the scoring."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from uwc.code_digest import comes_from_package
from uwc.data.example import VARIANTS, Example, Variant
from uwc.errors import ConfigError, DataError
from uwc.metrics.compat import Compat
from uwc.metrics.likelihood import shortest_prefixes
from uwc.metrics.registry import INPUTS, JUDGES, RAW_INPUT, inputs_of, metrics
from uwc.metrics.samples import SAMPLES, LeakSettings, SampleScores
from uwc.metrics.semantics import Judges
from uwc.metrics.stats import aggregate, paired_difference
from uwc.models.model import Model
from uwc.models.token_scores import Floats, Sampling, TokenScores
from uwc.registry import Entry
from uwc.results import Aggregate, Difference

if TYPE_CHECKING:
    from uwc.metrics.depth import Depth
    from uwc.models.generation import Generated

ROUNDING = 1e-6
"""Relative excess over a declared range that is rounding."""
NOT_FINITE = "the logits are not finite"


class MeasuredSet(ABC):
    """The answers of one system to E examples, and their metrics: of a model, or texts generated elsewhere.

    Attributes:
        answers: [E] the true answers.
        texts: [E] the generated answers; empty if there are none.
        questions: [E] the questions, without prompt template; empty if they are not known.
        secrets: [E] the spans that must not come out; empty if no example has any.
        prompts: [E] the prompts, as sent; empty if they are not known.
        judged: metric with its settings -> [E] its values.
        compat: the peer whose definitions are used; None for ours. Not stored.
    """

    answers: tuple[str, ...]
    texts: tuple[str, ...]
    questions: tuple[str, ...]
    secrets: tuple[tuple[str, ...], ...]
    prompts: tuple[str, ...]
    judged: Mapping[str, Floats]
    compat: Compat | None
    _known: dict[str, Floats]

    @property
    @abstractmethod
    def ids(self) -> tuple[str, ...]:
        """[E] the id of each example."""

    @property
    @abstractmethod
    def subjects(self) -> tuple[str, ...]:
        """[E] the subject of each example, which names its cluster."""

    @property
    def finite(self) -> NDArray[np.bool_]:
        """[E] whether all logits of an example are finite; otherwise its metrics are NaN."""
        return np.ones(len(self.ids), dtype=bool)

    def completed_from(self) -> list[int | None]:
        """[E] the characters of the answer in the shortest prefix from which greedy decoding completes the rest.

        None where it is not known.
        """
        return [None] * len(self.answers)

    def values(self, metric: str, **settings: Any) -> Floats:
        """[E] the metric for each example; NaN if it does not apply, or a logit is not finite. Cached.

        Raises:
            ConfigError: one of its needs was not scored, or a setting is invalid.
        """
        checked = self._checked(metric, settings)
        key = _key(metric, checked)
        if key not in self._known:
            values: Floats = np.where(self.finite, self._computed(metric, checked), np.nan)
            values.setflags(write=False)
            self._known[key] = values
        return self._known[key]

    def _checked(self, metric: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The complete settings of a metric: those given, else the peer's, else the defaults."""
        peer = self.compat.settings.get(metric, {}) if self.compat else {}
        return metrics.check(metric, {**peer, **settings})

    def _computed(self, metric: str, settings: Mapping[str, Any], judges: Judges | None = None) -> Floats:
        entry = metrics.get(metric)
        if judges is None and _key(metric, settings) in self.judged:
            return self.judged[_key(metric, settings)]
        arguments = []
        for need in entry.facts["needs"]:
            argument = getattr(judges, need, None) if need in JUDGES else self._input(need)
            if argument is None:
                raise ConfigError(f"the metric {metric!r} needs {self._lacking(need)}")
            arguments.append(argument)
        function = self.compat.functions.get(metric, entry.function) if self.compat else entry.function
        found: Floats = np.asarray(function(*arguments, **settings), dtype=np.float64)
        _require_possible(found, entry, len(self.ids))
        return found

    def values_or_input(self, name: str, **settings: Any) -> Floats:
        """The values of a metric; of ``"@INPUT"`` that input of `INPUTS`, as float64.

        Raises:
            ConfigError: it was not scored, or a setting is invalid.
        """
        if not name.startswith(RAW_INPUT):
            return self.values(name, **settings)
        need = name.removeprefix(RAW_INPUT)
        found = self._input(need)
        if found is None:
            raise ConfigError(f"a metric of whole sets needs {self._lacking(need)}")
        return np.asarray(found, dtype=np.float64)

    def aggregate(self, metric: str, *, seed: int = 0, **settings: Any) -> Aggregate:
        """The metric's average over the set."""
        average = metrics.get(metric).facts["average"]
        return aggregate(self.values(metric, **settings), self.subjects, average=average, seed=seed)

    def unscored(self, metric: str, **settings: Any) -> dict[str, int]:
        """Reason -> number of examples without a value for it."""
        missing = np.isnan(self.values(metric, **settings))
        finite = self.finite
        counts = {
            NOT_FINITE: int((missing & ~finite).sum()),
            metrics.get(metric).facts["unscored"]: int((missing & finite).sum()),
        }
        return {reason: count for reason, count in counts.items() if count}

    def chance(self, metric: str, **settings: Any) -> float | None:
        """The mean of a model that knows nothing over the examples with a value; None if that is not known."""
        return None

    def difference(self, other: "MeasuredSet", metric: str, *, seed: int = 0, **settings: Any) -> Difference:
        """The paired difference, the other system minus this one.

        Raises:
            DataError: the two sets do not have the same examples in the same order.
        """
        if self.ids != other.ids:
            raise DataError("the two models were scored on different examples; score both on the same file")
        return paired_difference(
            self.values(metric, **settings),
            other.values(metric, **settings),
            self.subjects,
            average=metrics.get(metric).facts["average"],
            seed=seed,
        )

    def judged_by(
        self, judges: Judges, names: Iterable[str], settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Self:
        """A copy with the values of judged metrics, which need no judge afterwards.

        Args:
            judges: the judges.
            names: metrics; those that need no judge are skipped.
            settings: metric -> its settings that differ from the defaults.

        Raises:
            ConfigError: a judge is missing, or a setting is invalid.
        """
        found: dict[str, Floats] = {}
        for metric in dict.fromkeys(names):
            if set(metrics.get(metric).facts["needs"]) & set(JUDGES):
                checked = self._checked(metric, (settings or {}).get(metric, {}))
                found[_key(metric, checked)] = self._computed(metric, checked, judges)
        return replace(self, judged={**self.judged, **found}) if found else self  # type: ignore[type-var]

    def _input(self, need: str) -> Any:
        """The argument of that name (see `INPUTS`), or None if it is not there."""
        if need in ("answers", "labelled"):
            return self.answers
        if need == "questions":
            return self.questions or None
        if need == "secrets":
            return self.secrets or ((),) * len(self.answers)
        return (self.texts or None) if need == "texts" else None

    def _lacking(self, need: str) -> str:
        """What is missing, in words for the user."""
        return INPUTS[need] or f"{need}, which were not scored; score the model again with this metric"


@dataclass(frozen=True)
class ScoredSet(MeasuredSet):
    """The output of one model on E examples.

    Attributes:
        tokens: token scores of all scored answer variants, including the true answers.
        answers: [E] the true answers, as the prompt template renders them.
        texts: [E] the generated answers; empty if none were generated.
        text_tokens: [E] their token ids; likewise.
        text_finite: [E] whether all logits were finite in generation; likewise.
        gradient_norms: [E] gradient norms, if computed.
        similar_from: [E] the shortest similar prefixes, if computed.
        samples: the scores of sampled answers, if any were sampled.
        letters: [E] the log-probabilities of each question's options by letter; see `letter_scores`.
        depth: the drops by block, if computed; not stored with the set.
        labelled: [E] the text of the true answers' labelled tokens, if a peer's definitions read it; else empty.
        states: [E, d] the states before the answer, see `prompt_states`, if computed.
        reference_states: [E, d] those of the original model, likewise.
        questions: [E] the questions; empty in scores of an earlier version.
        secrets: [E] the spans that must not come out; empty if no example has any.
        prompts: [E] the prompts, as sent to the model.
        ends: [E] for each answer token the number of characters of the answer up to its end; see `EncodedExample`.
        judged: metric with its settings (see `judged_by`) -> [E] its values.
        compat: the peer whose definitions are used; None for ours. Not stored.
    """

    tokens: TokenScores
    answers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    text_tokens: tuple[tuple[int, ...], ...] = ()
    text_finite: NDArray[np.bool_] | None = None
    gradient_norms: Floats | None = None
    similar_from: Floats | None = None
    states: NDArray[np.float32] | None = None
    reference_states: NDArray[np.float32] | None = None
    questions: tuple[str, ...] = ()
    samples: SampleScores | None = None
    letters: tuple[Floats, ...] | None = None
    depth: "Depth | None" = None
    labelled: tuple[str, ...] = ()
    secrets: tuple[tuple[str, ...], ...] = ()
    prompts: tuple[str, ...] = ()
    ends: tuple[tuple[int, ...], ...] = ()
    judged: Mapping[str, Floats] = field(default_factory=dict)
    compat: Compat | None = None
    _known: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def scores(self) -> TokenScores:
        """The token scores of the true answers."""
        return self.tokens.variant("answer")

    @property
    def ids(self) -> tuple[str, ...]:
        """[E] the id of each example."""
        return self.scores.ids

    @property
    def subjects(self) -> tuple[str, ...]:
        """[E] the subject of each example, which names its cluster."""
        return self.scores.subjects

    @property
    def finite(self) -> NDArray[np.bool_]:
        """[E] whether all logits of an example are finite; otherwise its metrics are NaN."""
        broken = {identity for identity, finite in zip(self.tokens.ids, self.tokens.finite, strict=True) if not finite}
        known = np.array([identity not in broken for identity in self.scores.ids], dtype=bool)
        for of_texts in (self.text_finite, None if self.samples is None else self.samples.finite):
            known = known if of_texts is None else known & of_texts
        return known

    def chance(self, metric: str, **settings: Any) -> float | None:
        """See `MeasuredSet.chance`: ``1 / m`` of m options for the accuracies of multiple choice."""
        if metrics.get(metric).facts.get("chance") != "options":
            return None
        if "letters" in metrics.get(metric).facts["needs"]:
            options = [len(letters) for letters in self.letters or ()]
        else:
            wrong = Counter(self.tokens.variant("perturbed_answers").ids)
            options = [1 + wrong[identity] for identity in self.ids]
        known = ~np.isnan(self.values(metric, **settings))
        return float((1.0 / np.array(options)[known]).mean()) if known.any() else None

    def completed_from(self) -> list[int | None]:
        """[E] the characters of the answer in the shortest prefix from which greedy decoding completes the rest.

        0 is the question alone; None where it is not known. It is the prefix of `extraction_strength`; answer tokens
        that an attack puts into the prompt are a part of it.
        """
        if not any(self.ends):
            return [None] * len(self.answers)
        needed, lengths = shortest_prefixes(self.scores).tolist(), self.scores.answer_lengths().tolist()
        return [
            (0, *ends)[len(ends) - n + k] if fine and n and len(ends) >= n else None
            for k, n, ends, fine in zip(needed, lengths, self.ends, self.finite.tolist(), strict=True)
        ]

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.parquet`` (token scores), ``NAME.jsonl`` (true and generated answers, values by example) and,
        if there are states, ``NAME.npz``."""
        self.tokens.save(folder / f"{name}.parquet")
        if states := {part: found for part in STATES if (found := getattr(self, part)) is not None}:
            np.savez(folder / f"{name}.npz", **states)
        columns: dict[str, Sequence[Any]] = {"id": self.scores.ids, "answer": self.answers}
        optional: dict[str, Any] = {
            "question": self.questions or None,
            "secret": self.secrets or None,
            "prompt": self.prompts or None,
            "ends": self.ends or None,
            "labelled": self.labelled or None,
            "generated": self.texts or None,
            "generated_tokens": self.text_tokens or None,
            "generated_finite": None if self.text_finite is None else self.text_finite.tolist(),
            "gradient_norm": None if self.gradient_norms is None else self.gradient_norms.tolist(),
            "similar_from": None if self.similar_from is None else self.similar_from.tolist(),
            "samples": None if self.samples is None else self.samples.rows(),
            "letters": None if self.letters is None else [values.tolist() for values in self.letters],
            "judged": self._judged_rows() if self.judged else None,
        }
        columns |= {key: column for key, column in optional.items() if column is not None}
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    @classmethod
    def load(cls, folder: Path, name: str) -> "ScoredSet":
        """Read the files of `save`. Raises DataError if one is damaged."""
        path = folder / f"{name}.jsonl"
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                rows = [json.loads(line) for line in file if line != "\n"]
            keys = rows[0].keys() if rows else ()
            parts = _read_states(folder / f"{name}.npz")
            return cls(
                TokenScores.load(folder / f"{name}.parquet"),
                answers=tuple(r["answer"] for r in rows),
                texts=tuple(r["generated"] for r in rows) if "generated" in keys else (),
                text_tokens=tuple(tuple(r["generated_tokens"]) for r in rows) if "generated_tokens" in keys else (),
                text_finite=np.array([r["generated_finite"] for r in rows]) if "generated_finite" in keys else None,
                gradient_norms=np.array([r["gradient_norm"] for r in rows]) if "gradient_norm" in keys else None,
                similar_from=np.array([r["similar_from"] for r in rows]) if "similar_from" in keys else None,
                states=parts.get("states"),
                reference_states=parts.get("reference_states"),
                questions=tuple(r["question"] for r in rows) if "question" in keys else (),
                samples=SampleScores.from_rows([r["samples"] for r in rows]) if "samples" in keys else None,
                letters=tuple(np.array(r["letters"], dtype=float) for r in rows) if "letters" in keys else None,
                labelled=tuple(r["labelled"] for r in rows) if "labelled" in keys else (),
                secrets=tuple(tuple(r["secret"]) for r in rows) if "secret" in keys else (),
                prompts=tuple(r["prompt"] for r in rows) if "prompt" in keys else (),
                ends=tuple(tuple(r["ends"]) for r in rows) if "ends" in keys else (),
                judged={
                    k: np.array([r["judged"][k] for r in rows]) for k in (rows[0]["judged"] if "judged" in keys else ())
                },
            )
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(f"{path}: damaged or missing ({error}); run again with --verify") from error

    def _judged_rows(self) -> list[dict[str, float]]:
        columns = {key: values.tolist() for key, values in self.judged.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(len(self.answers))]

    def _input(self, need: str) -> Any:
        """The argument of that name (see `INPUTS`), or None if it was not scored."""
        if need in ("scores", "sampled"):
            return self.scores
        if need == "labelled":
            return self.labelled or self.answers
        if need in ("answers", "questions", "secrets", "texts"):
            return super()._input(need)
        if need == "reference":
            return self.scores if self.scores.has_reference else None
        if need in ("restated", "perturbed"):
            return self._variant_rows(need)
        return (self.text_tokens or None) if need == "text_tokens" else getattr(self, need)

    def _variant_rows(self, need: str) -> TokenScores:
        if need == "perturbed":
            return self.tokens.variant("perturbed_answers")
        chosen: dict[str, int] = {}
        for i, (identity, variant) in enumerate(zip(self.tokens.ids, self.tokens.variants, strict=True)):
            if variant == "paraphrased_answer" or (variant == "answer" and identity not in chosen):
                chosen[identity] = i
        return self.tokens.select([chosen[identity] for identity in self.scores.ids])


def _read_states(path: Path) -> dict[str, NDArray[np.float32]]:
    """The states that `ScoredSet.save` wrote; none if there is no such file."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as parts:
        return {name: parts[name] for name in STATES if name in parts}


def _require_possible(values: Floats, entry: Entry[Any], count: int) -> None:
    """Raise ConfigError if a metric did not give one value an example, each NaN or within its range."""
    if values.shape != (count,):
        raise ConfigError(
            f"the metric {entry.name!r} returned an array of shape {values.shape}; return one value for each of the "
            f"{count} examples, of shape ({count},)"
        )
    low, high = entry.facts["range"]
    outside = values[(values < low - ROUNDING * abs(low)) | (values > high + ROUNDING * abs(high))]
    if len(outside) and not comes_from_package(entry.function):
        raise ConfigError(
            f"the metric {entry.name!r} returned {outside[0]:g}, outside the range {low:g} to {high:g} that it "
            "declares; declare the range of its values"
        )


def _key(metric: str, settings: Mapping[str, Any]) -> str:
    """The key of a metric with its complete settings."""
    return f"{metric} {json.dumps(settings, sort_keys=True, default=str)}"


TEXTS = ("texts", "text_tokens")
STATES = ("states", "reference_states")
EXTRAS = frozenset(
    {*TEXTS, *STATES, "restated", "perturbed", "sampled", SAMPLES, "letters", "gradient_norms", "similar_from"}
)
"""The needs with a cost; the others come with every pass."""
DEFAULT_SAMPLING = Sampling(temperature=1.0, top_k=40)


def needs_of(names: Iterable[str]) -> set[str]:
    """The needs of metrics and of ``"@INPUT"``, out of `INPUTS`."""
    return {need for name in names for need in inputs_of(name)}


def variants_of(needs: Collection[str]) -> tuple[Variant, ...]:
    """The answer variants that are needed."""
    wanted = {"answer": True, "paraphrased_answer": "restated" in needs, "perturbed_answers": "perturbed" in needs}
    return tuple(v for v in VARIANTS if wanted[v])


def score_set(
    model: Model,
    examples: Sequence[Example],
    *,
    needs: Collection[str],
    reference: Model | None = None,
    samplings: Sequence[Sampling] = (DEFAULT_SAMPLING,),
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    answered: "Callable[..., Generated] | None" = None,
    leaks: LeakSettings | None = None,
    judges: Judges | None = None,
) -> ScoredSet:
    """Score examples for some metrics: one forward pass over all answers, and generation if a metric reads texts.

    Args:
        model: the model.
        examples: the questions.
        needs: the needs of the metrics, see `needs_of`.
        reference: the original model, for metrics that compare with it.
        samplings: the sampling settings that the metrics need.
        max_new_tokens: the most tokens of a generated answer.
        token_budget: the most padded tokens in a batch; `token_budget_of` by default.
        answered: the function that generates answers; `generate` by default.
        leaks: settings of sampling answers, if a metric reads samples.
        judges: the judges of texts, if samples leak by one.

    Raises:
        UserError: an example or the reference cannot be used.
    """
    from uwc.models.generation import generate, shortest_similar_prefixes
    from uwc.models.letters import letter_scores
    from uwc.models.scoring import gradient_norms, score_tokens
    from uwc.models.states import prompt_states

    tokens = score_tokens(
        model,
        examples,
        variants=variants_of(needs),
        reference=reference,
        samplings=samplings if "sampled" in needs else (),
        token_budget=token_budget,
    )
    encoded = model.encode(examples)
    answers = tuple(e.answer for e in encoded)
    labelled = tuple(e.labelled or "" for e in encoded) if any(e.labelled is not None for e in encoded) else ()
    prompts, characters = model.prompts(encoded), tuple(e.ends for e in encoded)
    del encoded
    texts: Generated | None = None
    gradients = similar = states = reference_states = None
    if any(text in needs for text in TEXTS):
        texts = (answered or generate)(model, examples, max_new_tokens=max_new_tokens, token_budget=token_budget)
    if "gradient_norms" in needs:
        gradients = gradient_norms(model, examples)
    if "similar_from" in needs:
        scores = tokens.variant("answer")
        ends = np.cumsum(scores.answer_lengths()).astype(np.int64)[:-1]
        similar = shortest_similar_prefixes(model, examples, np.split(scores.greedy[scores.in_answer], ends))
    if "states" in needs:
        states = prompt_states(model, examples)
    if "reference_states" in needs and reference is not None:
        same = states is not None and reference.model is model.model
        reference_states = states if same else prompt_states(reference, examples)
    secrets = tuple(e.secret for e in examples)
    scored = ScoredSet(
        tokens,
        answers,
        labelled=labelled,
        states=states,
        reference_states=reference_states,
        questions=tuple(e.question for e in examples),
        samples=(
            _samples(model, examples, answers, secrets, leaks or LeakSettings(), max_new_tokens, token_budget, judges)
            if SAMPLES in needs
            else None
        ),
        letters=letter_scores(model, examples, token_budget=token_budget) if "letters" in needs else None,
        secrets=secrets if any(secrets) else (),
        prompts=prompts,
        ends=characters,
        gradient_norms=gradients,
        similar_from=similar,
    )
    if texts is None:
        return scored
    return replace(scored, texts=texts.texts, text_tokens=texts.tokens, text_finite=texts.finite)


def _samples(
    model: Model,
    examples: Sequence[Example],
    answers: Sequence[str],
    secrets: Sequence[Sequence[str]],
    settings: LeakSettings,
    max_new_tokens: int,
    token_budget: int | None,
    judges: Judges | None,
) -> SampleScores:
    from uwc.models.samples import sample

    drawn = sample(
        model,
        examples,
        count=settings.count,
        max_new_tokens=max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        token_budget=token_budget,
    )
    return SampleScores.of(settings, drawn.texts, answers=answers, secrets=secrets, finite=drawn.finite, judges=judges)
