"""A scored set: what a model said about a set of examples, and every metric computed from it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc.errors import ConfigError, DataError
from uwc.metrics.aggregation import Aggregate, aggregate
from uwc.metrics.compat import Compat
from uwc.metrics.differences import Paired, paired_difference
from uwc.metrics.registry import INPUTS, metrics
from uwc.metrics.semantics import Encoder, Entailment
from uwc.models.token_scores import Floats, TokenScores

NOT_FINITE = "the logits are not finite"


@dataclass(frozen=True)
class ScoredSet:
    """What one model said about E examples.

    Attributes:
        tokens: token scores of all answer variants that were scored, the true answers among them.
        answers: [E] the true answers, as the prompt's template renders them.
        texts: [E] the generated answers; empty where none were generated.
        text_tokens: [E] their token ids; likewise.
        text_finite: [E] whether all logits were finite while they were generated; likewise.
        gradient_norms: [E] gradient norms, where they were computed.
        similar_from: [E] the shortest similar prefixes, where they were searched.
        encoder: a sentence encoder for the metrics that need one; not stored.
        entailment: a judge of entailment, likewise.
        compat: whose definitions are used; None for ours.
    """

    tokens: TokenScores
    answers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    text_tokens: tuple[tuple[int, ...], ...] = ()
    text_finite: NDArray[np.bool_] | None = None
    gradient_norms: Floats | None = None
    similar_from: Floats | None = None
    encoder: Encoder | None = None
    entailment: Entailment | None = None
    compat: Compat | None = None

    @property
    def scores(self) -> TokenScores:
        """The token scores of the true answers."""
        return self.tokens.variant("answer")

    @property
    def subjects(self) -> tuple[str, ...]:
        """[E] what each example is about."""
        return self.scores.subjects

    @property
    def finite(self) -> NDArray[np.bool_]:
        """[E] whether all logits that an example's scores and text come from are finite; else no metric has a value."""
        broken = {identity for identity, finite in zip(self.tokens.ids, self.tokens.finite, strict=True) if not finite}
        known = np.array([identity not in broken for identity in self.scores.ids], dtype=bool)
        return known if self.text_finite is None else known & self.text_finite

    def values(self, metric: str, **settings: Any) -> Floats:
        """[E] the metric for each example; NaN where it does not apply, or a logit is not finite.

        Raises:
            ConfigError: what it needs was not scored, or a setting is wrong.
        """
        entry = metrics.get(metric)
        peer = self.compat.settings.get(metric, {}) if self.compat else {}
        checked = metrics.check(metric, {**peer, **settings})
        arguments = []
        for need in entry.facts["needs"]:
            argument = self._input(need)
            if argument is None:
                raise ConfigError(f"the metric {metric!r} needs {INPUTS[need] or f'{need}, which were not scored'}")
            arguments.append(argument)
        function = self.compat.functions.get(metric, entry.function) if self.compat else entry.function
        result: Floats = np.where(self.finite, function(*arguments, **checked), np.nan)
        return result

    def aggregate(self, metric: str, *, seed: int = 0, **settings: Any) -> Aggregate:
        """The metric's average over the set."""
        average = metrics.get(metric).facts["average"]
        return aggregate(self.values(metric, **settings), self.subjects, average=average, seed=seed)

    def aggregates(self, names: Sequence[str], *, seed: int = 0) -> dict[str, dict[str, Any]]:
        """Metric -> its aggregate over the set, and why examples were not scored, as plain data."""
        return {
            name: asdict(self.aggregate(name, seed=seed)) | {"why": self.unscored(name, self.values(name))}
            for name in names
        }

    def unscored(self, metric: str, values: Floats) -> dict[str, int]:
        """Reason -> how many examples have no value for it."""
        missing = np.isnan(values)
        finite = self.finite
        counts = {
            NOT_FINITE: int((missing & ~finite).sum()),
            metrics.get(metric).facts["unscored"]: int((missing & finite).sum()),
        }
        return {reason: count for reason, count in counts.items() if count}

    def difference(self, other: "ScoredSet", metric: str, *, seed: int = 0, **settings: Any) -> Paired:
        """The other model minus this one on the same examples, paired.

        Raises:
            DataError: the two sets do not hold the same examples in the same order.
        """
        if self.scores.ids != other.scores.ids:
            raise DataError("the two models were scored on different examples; score both on the same file")
        return paired_difference(
            self.values(metric, **settings), other.values(metric, **settings), self.subjects,
            average=metrics.get(metric).facts["average"], seed=seed,
        )  # fmt: skip

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.parquet`` (token scores) and ``NAME.jsonl`` (true and generated answers, values by example)."""
        self.tokens.save(folder / f"{name}.parquet")
        columns: dict[str, Sequence[Any]] = {"id": self.scores.ids, "answer": self.answers}
        optional: dict[str, Any] = {
            "generated": self.texts or None, "generated_tokens": self.text_tokens or None,
            "generated_finite": None if self.text_finite is None else self.text_finite.tolist(),
            "gradient_norm": None if self.gradient_norms is None else self.gradient_norms.tolist(),
            "similar_from": None if self.similar_from is None else self.similar_from.tolist(),
        }  # fmt: skip
        columns |= {key: column for key, column in optional.items() if column is not None}
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, name: str) -> "ScoredSet":
        """Read what `save` wrote. Raises DataError if a file is damaged."""
        path = folder / f"{name}.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            keys = rows[0].keys() if rows else ()
            return cls(
                TokenScores.load(folder / f"{name}.parquet"),
                answers=tuple(r["answer"] for r in rows),
                texts=tuple(r["generated"] for r in rows) if "generated" in keys else (),
                text_tokens=tuple(tuple(r["generated_tokens"]) for r in rows) if "generated_tokens" in keys else (),
                text_finite=np.array([r["generated_finite"] for r in rows]) if "generated_finite" in keys else None,
                gradient_norms=np.array([r["gradient_norm"] for r in rows]) if "gradient_norm" in keys else None,
                similar_from=np.array([r["similar_from"] for r in rows]) if "similar_from" in keys else None,
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: damaged or missing ({error}); remove its folder and run again") from error

    def judged_by(
        self, *, encoder: Encoder | None = None, entailment: Entailment | None = None, compat: Compat | None = None
    ) -> "ScoredSet":
        """The same scores with models that judge the generated answers, and another code's definitions."""
        return replace(self, encoder=encoder, entailment=entailment, compat=compat)

    def _input(self, need: str) -> Any:
        """The argument of that name (see `INPUTS`), or None where it was not scored."""
        if need in ("scores", "sampled"):
            return self.scores
        if need == "answers":
            return self.answers
        if need == "reference":
            return self.scores if self.scores.has_reference else None
        if need in ("restated", "perturbed"):
            return self._variant_rows(need)
        return getattr(self, need) if need not in ("texts", "text_tokens") or getattr(self, need) else None

    def _variant_rows(self, need: str) -> TokenScores:
        if need == "perturbed":
            return self.tokens.variant("perturbed_answers")
        chosen: dict[str, int] = {}
        for i, (identity, variant) in enumerate(zip(self.tokens.ids, self.tokens.variants, strict=True)):
            if variant == "paraphrased_answer" or (variant == "answer" and identity not in chosen):
                chosen[identity] = i
        return self.tokens.select([chosen[identity] for identity in self.scores.ids])
