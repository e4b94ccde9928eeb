"""The unlearning methods: each a named composition of terms. This is the file to read to know what a name means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from uwc.errors import ConfigError
from uwc.objectives.registry import terms
from uwc.registry import unknown_name


@dataclass(frozen=True)
class WeightedTerm:
    """A registered term, its coefficient in the sum, and its settings."""

    term: str
    weight: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A weighted sum of terms. Its loss is ``sum_k weight_k L_k``."""

    name: str
    summary: str
    source: str
    terms: tuple[WeightedTerm, ...]

    @property
    def formula(self) -> str:
        """The sum in the terms' notation."""
        return " + ".join(
            f"{'' if t.weight == 1 else f'{t.weight:g} '}{t.term}[{terms.get(t.term).facts['formula']}]"
            for t in self.terms
        )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ga", "gradient ascent on the forget answers", "arXiv:2210.01504",
               (WeightedTerm("gradient_ascent"),)),
        Method("gd", "gradient difference: ascent on forget, descent on retain answers", "arXiv:2203.12817",
               (WeightedTerm("gradient_ascent"), WeightedTerm("nll"))),
        Method("kl", "gradient ascent, held to the original's predictions on retain answers", "arXiv:2401.06121",
               (WeightedTerm("gradient_ascent"), WeightedTerm("kl"))),
        Method("po", "preference optimization: answer forget questions with refusals", "arXiv:2401.06121",
               (WeightedTerm("refusal"),)),
        Method("npo", "negative preference optimization", "arXiv:2404.05868",
               (WeightedTerm("npo"),)),
        Method("rmu", "misdirect forget states, keep retain states in place", "arXiv:2403.03218",
               (WeightedTerm("misdirection"), WeightedTerm("activation_distance"))),
    )
}  # fmt: skip

FINE_TUNING = Method("fine-tuning", "descent on the answers", "", (WeightedTerm("nll"),))


def get_method(name: str) -> Method:
    """The method of that name. Raises ConfigError, naming the valid ones, if there is none."""
    if name not in METHODS:
        raise ConfigError(unknown_name("method", name, list(METHODS)))
    return METHODS[name]
