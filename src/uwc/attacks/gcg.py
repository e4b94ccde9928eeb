"""Greedy coordinate gradient: search for a suffix of tokens after which the model gives the answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from uwc.attacks.attacked import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.attacks.suffix_search import Problem, SearchSettings, SuffixSearch, allowed_tokens
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError
from uwc.models.target import Edit, Target

Count = Annotated[int, Field(ge=1)]


_GCG: dict[str, Any] = {
    "kind": "prompt", "touches_weights": False, "effort": "steps", "budgets": True, "check": None,
    "source": "arXiv:2307.15043, arXiv:2409.18025",
}  # fmt: skip


@attacks.register("gcg", needs=("train",), trains_on_scored=False, **_GCG)
def gcg(
    target: Target, data: AttackData, *, steps: Count = 250, budgets: tuple[Count, ...] = (), candidates: Count = 512,
    top_k: Count = 256, start: str = "x x x x x x x x x x x x x x x x x x x x", target_tokens: Count | None = None,
    questions: Count = 8, layer: int | None = None, seed: int = 0,
) -> Iterator[Attacked]:  # fmt: skip
    """Search for one suffix that makes the model answer the attacker's questions, and put it after every question.

    At each step every candidate replaces one token of the suffix by one of the `top_k` with the steepest negative
    gradient; the candidate with the lowest mean cross-entropy of the true answers is the next suffix. The best suffix
    seen, the first one included, is used. Suffixes that do not survive decoding and encoding are dropped.

    Args:
        target: the model.
        data: optimised on `train`, never on what is scored.
        steps: of the search.
        budgets: the steps after which the best suffix so far is scored; only after the last if empty.
        candidates: tried at each step.
        top_k: tokens considered at each place.
        start: the suffix to begin with; a suffix found on another model is a good one.
        target_tokens: how many tokens of the answer are asked for; all if None.
        questions: how many of the attacker's questions it is optimised on.
        layer: read the loss off this block's states, through the final norm and the output embedding, instead of
            off the last; for models whose unlearning sits in the last blocks.
        seed: of the search.

    Raises:
        ConfigError: the start is empty or has tokens that are not printable ASCII.
    """
    settings = SearchSettings(steps, candidates, top_k, target_tokens, layer, seed)
    examples = list(data.train)[:questions]
    tail = _tail(target, [*examples, *data.scored])
    for budget, suffix in _search(target, examples, tail, start, settings, budgets):
        text = target.tokenizer.decode(suffix)
        label = f"{budget} steps" if budgets else ""
        yield Attacked(target.edited(_insert({}, suffix, tail)), label=label, effort=budget, note=repr(text))


@attacks.register("gcg_per_question", needs=(), trains_on_scored=True, **_GCG)
def gcg_per_question(
    target: Target, data: AttackData, *, steps: Count = 250, budgets: tuple[Count, ...] = (), candidates: Count = 512,
    top_k: Count = 256, start: str = "x x x x x x x x x x x x x x x x x x x x", target_tokens: Count | None = None,
    layer: int | None = None, seed: int = 0,
) -> Iterator[Attacked]:  # fmt: skip
    """Search for a suffix for each scored question by its own answer; may elicit what was never known: needs a control.

    Settings as in `gcg`.
    """
    settings = SearchSettings(steps, candidates, top_k, target_tokens, layer, seed)
    tail = _tail(target, data.scored)
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for example in data.scored:
        for budget, suffix in _search(target, [example], tail, start, settings, budgets):
            found.setdefault(budget, {})[example.id] = suffix
    for budget, suffixes in sorted(found.items()):
        label = f"{budget} steps" if budgets else ""
        yield Attacked(target.edited(_insert(suffixes, (), tail)), label=label, effort=budget)


def _search(
    target: Target, examples: Sequence[Example], tail: int, start: str, settings: SearchSettings,
    budgets: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:  # fmt: skip
    """(step, best suffix so far) at each budget, or after the last step."""
    begin = tuple(target.tokenizer(start, add_special_tokens=False)["input_ids"])
    if not begin or not set(begin) <= set(allowed_tokens(target.tokenizer)):
        raise ConfigError(f"attack 'gcg': start = {start!r} must be a text of printable ASCII tokens")
    problems = [Problem.of(e, tail, settings.target_tokens) for e in target.encode(examples)]
    search = SuffixSearch(target, problems, begin, settings)
    wanted = set(budgets) or {settings.steps}
    for step in range(1, max(wanted) + 1):
        search.step()
        if step in wanted:
            yield step, search.best


def _tail(target: Target, examples: Sequence[Example]) -> int:
    """How many tokens of a prompt follow the question: where a longer question parts from it, at the earliest."""
    plain = target.encode(examples)
    longer = target.encode([replace(e, question=f"{e.question} !") for e in examples])
    tails = []
    for a, b in zip(plain, longer, strict=True):
        same = next(i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y)
        tails.append(a.start - min(same, a.start))
    return max(tails)


def _insert(suffixes: Mapping[str, tuple[int, ...]], default: tuple[int, ...], tail: int) -> Edit:
    def edit(e: EncodedExample) -> EncodedExample:
        suffix = suffixes.get(e.id, default)
        place = max(e.start - tail, 0)
        tokens = (*e.tokens[:place], *suffix, *e.tokens[place:])
        return replace(e, tokens=tokens, start=e.start + len(suffix), end=e.end + len(suffix))

    return edit
