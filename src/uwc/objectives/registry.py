"""The registries of loss terms and tricks with their declarations, and the roles of examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from uwc.errors import ConfigError
from uwc.registry import Entry, Registry, check_inputs, require_one_of, unknown_name

AnswerPool = Literal["own", "refusals", "retain_answers", "alternatives", "samples"]


@dataclass(frozen=True)
class Role:
    """A kind of example that a term may read.

    Attributes:
        name: its name in needs of terms.
        questions: the set of its questions.
        answers: the source of its answers. "own": the examples' true answers; "refusals": a random refusal, the same
            for a forget question and its retain partner; "retain_answers": a random retain example's; "alternatives":
            one of the example's wrong answers; "samples": answers sampled from the model itself.
    """

    name: str
    questions: Literal["forget", "retain"]
    answers: AnswerPool

    @property
    def tricked(self) -> bool:
        """Whether tricks apply, which they do in the forget loss only."""
        return self.questions == "forget"


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("forget", "forget", "own"),
        Role("refusal", "forget", "refusals"),
        Role("alternative", "forget", "alternatives"),
        Role("random_answer", "forget", "retain_answers"),
        Role("sampled", "forget", "samples"),
        Role("retain", "retain", "own"),
        Role("retain_refusal", "retain", "refusals"),
    )
}


def role_of(need: str) -> str:
    """The role in a declared need: ``"forget"`` of ``"forget.reference_logprobs"``."""
    return need.partition(".")[0]


F = TypeVar("F", bound=Callable[..., Any])

READS = ("", "logits", "states", "tokens", "reference_logprobs", "reference_logits", "reference_states")
"""The possible inputs of a term from a role's pass: ``ROLE``, or ``ROLE.WHAT``."""


def _check(entry: Entry[Any]) -> None:
    """Raise ConfigError for a term that declares something impossible."""
    name, facts = entry.name, entry.facts
    check_inputs(entry, "term", count=1, of="(forwards)")
    require_one_of(f"side of the term {name!r}", facts["side"], ("forget", "retain"))
    require_one_of(f"reduction of the term {name!r}", facts["reduction"], ("tokens", "examples"))
    require_one_of(f"role of the term {name!r}", facts["role"], ROLES)
    if not facts["needs"]:
        raise ConfigError(f"the term {name!r} needs nothing, and so has no gradient; it reads ROLE or ROLE.WHAT")
    for need in facts["needs"]:
        role, _, what = need.partition(".")
        if role not in ROLES:
            raise ConfigError(unknown_name(f"role that the term {name!r} needs", role, list(ROLES)))
        if what not in READS:
            valid = [f"{role}.{what}".removesuffix(".") for what in READS]
            raise ConfigError(unknown_name(f"input of the term {name!r}", need, valid))
        if what.endswith("states") and "layer" not in entry.settings:
            raise ConfigError(f"the term {name!r} needs {need}; give it a setting that says of which block: layer")
    if facts["role"] not in map(role_of, facts["needs"]):
        needs = ", ".join(facts["needs"])
        raise ConfigError(f"the term {name!r} trains on the role {facts['role']!r}, and needs only {needs}; add it")


terms: Registry[Any] = Registry(
    "term",
    modules=("uwc.objectives.terms",),
    declares=("side", "role", "needs", "reduction", "formula"),
    check=_check,
)
"""Functions of one step's `Forwards` that return a loss for each example, shape [B].

Each declares:
    side: "forget" (removes) or "retain" (keeps).
    role: the pass that it trains on, over whose tokens its mean is taken; a name in `ROLES`.
    needs: its inputs. Of the trained model "ROLE" (the pass with its log-probabilities), "ROLE.logits" (also its
        logits), "ROLE.states" (hidden states alone) or "ROLE.tokens" (the batch alone, without a pass, unless another
        term needs one); of the frozen reference "ROLE.reference_logprobs",
        "ROLE.reference_logits" or "ROLE.reference_states".
    reduction: "tokens" (the sum over the step is divided by its number of labelled tokens) or "examples".
    formula: as `uwc list terms` prints it.

Three names of settings have a meaning for the step: ``layer`` (which hidden states to capture), ``scope`` (which
positions to compute) and ``ignore_first`` (how many tokens of each answer a token mean leaves out).
"""

tricks: Registry[Any] = Registry(
    "trick", modules=("uwc.objectives.tricks",), declares=("formula", "neutral", "reads", "acts_on")
)
"""Functions that change the token weights or logits of a pass over forget questions before any term reads it.

They are applied in the order of registration. Each declares the ``formula``, the ``neutral`` value, ``reads``: "logits"
or "logprobs", and ``acts_on``: "forget questions" with any answer, or "forgotten answers" only, not the answers that a
term trains in their place.
"""


@overload
def loss(function: F, /) -> F: ...


@overload
def loss(
    *,
    name: str | None = None,
    side: Literal["forget", "retain"] = "forget",
    role: str | None = None,
    needs: str | Sequence[str] | None = None,
    reduction: Literal["tokens", "examples"] = "tokens",
    formula: str | None = None,
    source: str = "",
) -> Callable[[F], F]: ...


def loss(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    side: Literal["forget", "retain"] = "forget",
    role: str | None = None,
    needs: str | Sequence[str] | None = None,
    reduction: Literal["tokens", "examples"] = "tokens",
    formula: str | None = None,
    source: str = "",
) -> Any:
    """Decorator that makes a function a loss term, with or without declarations: ``@uwc.loss``.

    The function takes a step's `Forwards` and returns a loss for each example, [B]; keyword-only arguments are its
    settings. Executed again, as a cell of a notebook is, the last definition counts.

    Args:
        function: the term.
        name: what users write; the function's name by default.
        side: whether it removes ("forget") or keeps ("retain").
        role: the pass it trains on; `side` by default.
        needs: what it reads, ``"ROLE"`` or ``"ROLE.WHAT"``, see `READS`; the log-probabilities of `role` by default.
        reduction: divide the sum over a step by its number of labelled tokens, or of examples.
        formula: what reports print; the name by default.
        source: where it is defined.

    Raises:
        ConfigError: a role or need is unknown, a declaration is impossible, or the name is taken.
    """

    def decorate(given: F) -> F:
        on = role or side
        terms.add(
            given,
            name,
            source=source,
            side=side,
            role=on,
            needs=(on,) if needs is None else (needs,) if isinstance(needs, str) else tuple(needs),
            reduction=reduction,
            formula=formula or name or getattr(given, "__name__", ""),
        )
        return given

    return decorate if function is None else decorate(function)


def term_name(given: Any) -> Any:
    """The name of a term; a function that is not yet one becomes one with the default declarations."""
    if not callable(given):
        return given
    known = terms.name_of(given)
    return terms.name_of(loss(given)) if known is None else known
