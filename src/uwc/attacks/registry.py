"""The registry of attacks, and the declarations of an attack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from uwc.errors import ConfigError
from uwc.registry import Entry, Registry, check_inputs, require_one_of, unknown_name

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["weights", "inside", "prompt", "decoding"]

Texts = bool | Literal["all"]
"""The texts that are kept under attack: of the worst variant of each question (True), of every one, or none."""

KINDS: tuple[Kind, ...] = ("weights", "inside", "prompt", "decoding")
"""The part that an attack changes, in the order of attacks in a chain."""

DATA: dict[str, str] = {
    "train": "examples of the forgotten data, other than those scored (--attacker-data)",
    "retain": "retained examples (--retain)",
    "unrelated": "unrelated examples (--unrelated)",
    "translations": "translated questions (--translation-column)",
    "questions": "the scored questions in another form (--question-column)",
    "forget": "the questions to forget among those scored (--data)",
}
"""Field of `AttackData` that an attack may need -> the user's option for it."""

PRECISIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"int{bits}": ("quantization", {"bits": bits}) for bits in (8, 6, 5, 4, 3, 2)},
    "nf4": ("quantization_nf4", {}),
    "nf4_double": ("quantization_nf4", {"double": True}),
    "llm_int8": ("quantization_llm_int8", {}),
    "gptq_int4": ("quantization_gptq", {"bits": 4}),
    "awq_int4": ("quantization_awq", {"bits": 4}),
}
"""Precision, which may stand for an attack -> the attack that rounds the weights to it, with its settings."""

_MODULES = ("prompts", "gcg", "inside", "weights", "decoding", "searched", "evolution")


def _check(entry: Entry[Any]) -> None:
    """Raise ConfigError for an attack that declares something impossible."""
    name, facts = entry.name, entry.facts
    check_inputs(entry, "attack", count=2, of="(model, data)")
    require_one_of(f"kind of the attack {name!r}", facts["kind"], KINDS)
    for need in facts["needs"]:
        for part in need.split("|"):
            if part not in DATA:
                raise ConfigError(unknown_name(f"need of the attack {name!r}", part, list(DATA)))
    if facts["effort"] and facts["effort"] not in entry.settings:
        raise ConfigError(unknown_name(f"effort of the attack {name!r}", facts["effort"], list(entry.settings)))
    if facts["budgets"] and "budgets" not in entry.settings:
        raise ConfigError(
            f"the attack {name!r} declares budgets, and has no setting 'budgets'; add it, or leave it out"
        )


attacks: Registry[Any] = Registry("attack", modules=tuple(f"uwc.attacks.{m}" for m in _MODULES), check=_check)
"""Functions ``attack(model, data, *, settings...)`` that return or yield one or more models, plain or `Attacked`.

Each yielded model is valid until the next one is requested; the original's weights never change. An attack is
deterministic given its settings. Run one through `uwc.attacks.chain.attacked`, which checks settings, data and order.

Each declares:
    kind: "weights", "inside", "prompt" or "decoding": the part that it changes, which gives the order in a chain.
    touches_weights: whether it may add knowledge, so that the slope of after on before need not be 1.
    needs: the `AttackData` fields that must not be empty; ``"train|retain"`` is either.
    effort: the setting that measures the attacker's effort, or "".
    budgets: whether a setting ``budgets`` yields one model for each effort from a single run.
    check: a function of data and settings that raises DataError for unsuitable data, or None.
    trains_on_scored: whether it trains on the scored answers, so that a leak can be seen only against a control.
    rewords: whether it puts words into or around a question, which a passage of raw text does not have.
    in_search: optional, False for an attack that a search for the strongest tries only where it is named.
    uses: optional, a function of settings that returns the entries of registries that the attack uses besides itself.
    asks: optional, a function of settings that returns the folders and hub names of further models that it asks.
    check_answers: optional, a function of settings that raises ConfigError for those that need more of a model than its
        answers.
"""


@overload
def attack_method(function: F, /) -> F: ...


@overload
def attack_method(
    *,
    name: str | None = None,
    kind: Kind = "prompt",
    touches_weights: bool | None = None,
    needs: str | Sequence[str] = (),
    effort: str = "",
    budgets: bool | None = None,
    check: Callable[..., None] | None = None,
    trains_on_scored: bool = False,
    rewords: bool | None = None,
    in_search: bool = True,
    uses: Callable[[Mapping[str, Any]], Iterable[Callable[..., Any]]] | None = None,
    asks: Callable[[Mapping[str, Any]], Iterable[str]] | None = None,
    source: str = "",
) -> Callable[[F], F]: ...


def attack_method(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    kind: Kind = "prompt",
    touches_weights: bool | None = None,
    needs: str | Sequence[str] = (),
    effort: str = "",
    budgets: bool | None = None,
    check: Callable[..., None] | None = None,
    trains_on_scored: bool = False,
    rewords: bool | None = None,
    in_search: bool = True,
    uses: Callable[[Mapping[str, Any]], Iterable[Callable[..., Any]]] | None = None,
    asks: Callable[[Mapping[str, Any]], Iterable[str]] | None = None,
    source: str = "",
) -> Any:
    """Decorator that makes a function an attack, with or without declarations: ``@uwc.attack_method``.

    The function takes a model and `AttackData`, and returns the attacked model or yields several variants, each a
    model or an `Attacked`; the given model's weights must stay as they are. Keyword-only arguments are its settings.
    Executed again, as a cell of a notebook is, the last definition counts.

    Args:
        function: the attack.
        name: what users write; the function's name by default.
        kind: what it changes. An attack on prompts or weights that changes none is an error when it is carried out.
        touches_weights: whether knowledge may be added; by default whether it is an attack on weights.
        needs: the parts of `AttackData` that must not be empty, see `DATA`; ``"train|retain"`` is either.
        effort: the setting that grows with the attacker's effort.
        budgets: whether the setting ``budgets`` yields a model for each effort; by default whether there is one.
        check: a function of data and settings that raises DataError for data that does not do.
        trains_on_scored: whether the scored answers themselves are shown to the attacker.
        rewords: whether it puts words into or around a question, so that it is refused for passages of raw text; by
            default whether it is an attack on prompts.
        in_search: whether a search for the strongest attack tries it also where it is not named.
        uses: a function of settings that returns the metrics, attacks and other functions that it uses, in whose code a
            change makes stored results invalid.
        asks: a function of settings that returns the folders and hub names of further models that it asks, whose
            content is a part of the key of stored results.
        source: where it is defined.

    Raises:
        ConfigError: a kind, need or effort is unknown, a declaration is impossible, or the name is taken.
    """

    def decorate(given: F) -> F:
        settings = Entry(name or "", given, source).settings
        attacks.add(
            given,
            name,
            source=source,
            kind=kind,
            touches_weights=kind == "weights" if touches_weights is None else touches_weights,
            needs=(needs,) if isinstance(needs, str) else tuple(needs),
            effort=effort,
            budgets="budgets" in settings if budgets is None else budgets,
            check=check,
            trains_on_scored=trains_on_scored,
            rewords=kind == "prompt" if rewords is None else rewords,
            in_search=in_search,
            **({} if uses is None else {"uses": lambda given: [_entry(function) for function in uses(given)]}),
            **({} if asks is None else {"asks": asks}),
        )
        return given

    return decorate if function is None else decorate(function)


def _entry(function: Callable[..., Any]) -> Entry[Any]:
    """The entry of a metric or an attack; one of its own for any other function."""
    from uwc.metrics.registry import metrics

    known = (entry for registry in (attacks, metrics) for entry in registry if entry.function is function)
    return next(known, Entry(getattr(function, "__name__", repr(function)), function, ""))


def attack_name(given: Any) -> Any:
    """The name of an attack or chain; a function that is not yet an attack becomes one, with the defaults."""
    if not callable(given):
        return given
    known = attacks.name_of(given)
    return attacks.name_of(attack_method(given)) if known is None else known
