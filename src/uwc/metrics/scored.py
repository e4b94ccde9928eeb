"""A scored set: what a model said about a set of examples, and every metric computed from it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uwc.errors import ConfigError, DataError
from uwc.metrics.aggregation import aggregate
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores


@dataclass(frozen=True)
class ScoredSet:
    """Token scores and, where they were asked for, generated answers of one set of examples.

    Attributes:
        tokens: the token scores.
        answers: the true answers.
        texts: the generated answers; empty where none were generated.
    """

    tokens: TokenScores
    answers: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def values(self, metric: str) -> Floats:
        """[E] the metric for each example. Raises ConfigError if what it needs was not scored."""
        entry = metrics.get(metric)
        if entry.facts["needs"] == "texts":
            if not self.texts:
                raise ConfigError(f"the metric {metric!r} needs generated answers; score with max_new_tokens > 0")
            result: Floats = entry.function(self.answers, self.texts)
        else:
            result = entry.function(self.tokens)
        return result

    def aggregates(self, names: Sequence[str], *, seed: int = 0) -> dict[str, dict[str, Any]]:
        """Metric -> its aggregate over the set, as plain data."""
        return {
            name: asdict(
                aggregate(
                    self.values(name), self.tokens.subjects, average=metrics.get(name).facts["average"], seed=seed
                )
            )
            for name in names
        }

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.parquet`` (token scores) and ``NAME.jsonl`` (true and generated answers)."""
        self.tokens.save(folder / f"{name}.parquet")
        texts = self.texts or [None] * len(self.answers)
        lines = [
            json.dumps({"id": i, "answer": a, "generated": t})
            for i, a, t in zip(self.tokens.ids, self.answers, texts, strict=True)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, name: str) -> "ScoredSet":
        """Read what `save` wrote. Raises DataError if a file is damaged."""
        path = folder / f"{name}.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            texts = tuple(r["generated"] for r in rows if r["generated"] is not None)
            return cls(TokenScores.load(folder / f"{name}.parquet"), tuple(r["answer"] for r in rows), texts)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: damaged or missing ({error}); remove its folder and run again") from error
