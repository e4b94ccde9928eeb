"""Search spaces of hyper-parameters: which values a search may try, and what methods declare."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from uwc.errors import ConfigError
from uwc.strict_numbers import StrictNumbers

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Value = float | int | str | bool
"""A value of a hyper-parameter."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Range(StrictNumbers):
    """All numbers between two bounds, both included.

    Attributes:
        low, high: the bounds.
        log: whether to draw uniformly in the logarithm.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ConfigError(f"the range from {self.low:g} to {self.high:g} is empty; low must be less than high")
        if self.log and self.low <= 0:
            raise ConfigError(f"log: the range from {self.low:g} must begin above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ConfigError(f"whole: {self.low:g} and {self.high:g} must be whole numbers")
        return self

    def around(self, own: Value | None) -> "Range":
        """The range itself, whatever the run's own value is."""
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The bounds."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def __str__(self) -> str:
        notes = [*(["whole numbers"] if self.whole else []), *(["logarithmic"] if self.log else [])]
        return f"{self.low:.3g} to {self.high:.3g}" + (f" ({', '.join(notes)})" if notes else "")

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= float(value) <= self.high  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Choices(StrictNumbers):
    """Some values, without an order.

    Attributes:
        choices: the values.
    """

    choices: tuple[Value, ...] = Field(min_length=1)

    def around(self, own: Value | None) -> "Choices":
        """The choices themselves, whatever the run's own value is."""
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The choices."""
        return self.choices

    def __str__(self) -> str:
        return ", ".join(map(str, self.choices))

    def __contains__(self, value: object) -> bool:
        return value in self.choices


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Around(StrictNumbers):
    """The run's own value divided and multiplied by up to a factor, uniformly in the logarithm.

    Attributes:
        factor: above 1.
    """

    factor: Annotated[float, Field(gt=1)]

    def around(self, own: Value | None) -> Range:
        """The range. Raises ConfigError if the run's own value is no positive number."""
        if isinstance(own, bool) or not isinstance(own, int | float) or own <= 0:
            raise ConfigError(f"the own value is {own!r}, and only a positive number has a factor; give low and high")
        if not isinstance(own, int):
            return Range(low=own / self.factor, high=own * self.factor, log=True)
        low, high = max(1, round(own / self.factor)), round(own * self.factor)
        return Range(low=low, high=max(high, low + 1), log=True, whole=True)

    def __str__(self) -> str:
        return f"x 1/{self.factor:g} to x {self.factor:g}"


Parameter = Range | Choices | Around
Space = Mapping[str, Parameter]
"""Key of a run in a study's file, such as ``training.lr``, ``weights.nll``, ``settings.npo.beta``, ``rule.share`` or
``tricks.likelihood_cap`` -> the values to try."""

COMMON: Space = {"training.lr": Around(factor=8.0), "training.batch_size": Around(factor=2.0)}
"""What is searched for every method."""
WEIGHT = Around(factor=10.0)
"""The weight of a term besides the first."""
