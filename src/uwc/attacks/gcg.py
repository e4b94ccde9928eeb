"""Greedy coordinate gradient (arXiv:2307.15043): search for a suffix of the question that elicits the answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from uwc import progress
from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError
from uwc.models import chunks
from uwc.models.model import Model
from uwc.models.processes import is_first, of_first
from uwc.models.selection import Select, require_effect
from uwc.models.selection import select as chosen

if TYPE_CHECKING:
    from uwc.attacks.suffix_search import Problem, SearchSettings, SearchState

Count = Annotated[int, Field(ge=1)]


_GCG: dict[str, Any] = {
    "kind": "prompt",
    "touches_weights": False,
    "effort": "steps",
    "budgets": True,
    "rewords": True,
    "source": "arXiv:2307.15043, arXiv:2409.18025",
}


def _check_start(_data: AttackData, settings: Mapping[str, Any]) -> None:
    start = settings["start"]
    if not start.strip() or not (start.isascii() and start.isprintable()):
        raise ConfigError(f"attack 'gcg': start = {start!r} must be a text of printable ASCII, such as 'x x x x'")


def _check_questions(data: AttackData, settings: Mapping[str, Any]) -> None:
    _check_start(data, settings)
    require_effect(settings["select"], settings["questions"], len(data.train), option="gcg.questions")


@attacks.register("gcg", needs=("train",), trains_on_scored=False, check=_check_questions, **_GCG)
def gcg(
    model: Model,
    data: AttackData,
    *,
    steps: Count = 250,
    budgets: tuple[Count, ...] = (),
    candidates: Count = 512,
    top_k: Count = 256,
    start: str = "x x x x x x x x x x x x x x x x x x x x",
    target_tokens: Count | None = None,
    questions: Count = 8,
    select: Select = "random",
    layer: int | None = None,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Search for one suffix that elicits answers to the attacker's questions, and append it to every question.

    The suffix is a text after the question and a space. At each step every candidate replaces one of its tokens by one
    of the `top_k` with the steepest negative gradient. The next suffix is the candidate with the lowest mean
    cross-entropy of the true answers, among those whose text, in the whole prompt of each question, is tokenized into
    the tokens that were tried. The best suffix so far, including the first one, is used.

    Args:
        model: the model.
        data: optimised on `train`, never on the scored examples.
        steps: of the search.
        budgets: the steps after which the best suffix so far is scored; only after the last if empty.
        candidates: number of candidates at each step.
        top_k: number of tokens considered at each position.
        start: the initial suffix; a suffix found on another model is a good one.
        target_tokens: number of answer tokens in the loss; all if None.
        questions: number of the attacker's questions in the loss.
        select: the rule by which they are chosen, see `uwc.models.selection.select`.
        layer: use this block's states in place of the last one's, as `logit_lens`; for models whose unlearning is in
            the last blocks.
        seed: of the choice and the search.

    Raises:
        ConfigError: the start is not tokenized separately after a question.
        AttackFailed: in no step a candidate was tokenized into the tokens that were tried.
    """
    from uwc.attacks.suffix_search import SearchSettings

    settings = SearchSettings(steps, candidates, top_k, target_tokens, layer, seed)
    asked = [data.train[i] for i in chosen(model, data.train, questions, rule=select, seed=seed)]
    for budget, text in _search(model, asked, start, settings, budgets, content=[model.model]):
        label = f"{budget} steps" if budgets else ""
        yield Attacked(_typed(model, text), label=label, effort=budget, note=repr(text))


@attacks.register("gcg_per_question", needs=(), trains_on_scored=True, check=_check_start, **_GCG)
def gcg_per_question(
    model: Model,
    data: AttackData,
    *,
    steps: Count = 250,
    budgets: tuple[Count, ...] = (),
    candidates: Count = 512,
    top_k: Count = 256,
    start: str = "x x x x x x x x x x x x x x x x x x x x",
    target_tokens: Count | None = None,
    layer: int | None = None,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Search for a suffix for each scored question on its own answer.

    It may elicit answers that were never known, and therefore needs a control. Settings as in `gcg`.
    """
    from uwc.attacks.suffix_search import SearchSettings

    settings = SearchSettings(steps, candidates, top_k, target_tokens, layer, seed)
    found: dict[int, dict[str, str]] = {}
    with chunks.within(lambda: [model.model]):  # the weights are read once for all searches
        for example in data.scored:
            for budget, text in _search(model, [example], start, settings, budgets, content=[]):
                found.setdefault(budget, {})[example.id] = text
    for budget, texts in sorted(found.items()):
        label = f"{budget} steps" if budgets else ""
        yield Attacked(_typed(model, texts), label=label, effort=budget)


def _search(
    model: Model,
    examples: Sequence[Example],
    start: str,
    settings: "SearchSettings",
    budgets: tuple[int, ...],
    *,
    content: Sequence[object],
) -> Iterator[tuple[int, str]]:
    """(step, text of the best suffix so far) at each budget, or after the last step.

    The states after steps are kept with the results of passes; `content` determines them besides problems and settings.
    """
    from uwc.attacks.suffix_search import SuffixSearch, text_of

    asked = [_asked(model, example, start.strip(), settings.target_tokens) for example in examples]
    problems, (begin, *others) = [problem for problem, _ in asked], [suffix for _, suffix in asked]
    if any(other != begin for other in others):
        raise ConfigError(
            f"attack 'gcg': start = {start!r} is not read as the same tokens after every question; give another, such "
            "as 'x x x x'"
        )

    def readable(number: int, suffixes: Sequence[tuple[int, ...]]) -> list[bool]:
        texts = (text_of(model.tokenizer, suffix).strip() for suffix in suffixes)
        typed = model.rewritten(lambda e: replace(e, question=f"{e.question} {next(texts)}"))
        problem = problems[number]
        read = (e.tokens[: e.start + len(problem.wanted)] for e in typed.encode([examples[number]] * len(suffixes)))
        return [tokens == problem.with_suffix(suffix) for tokens, suffix in zip(read, suffixes, strict=True)]

    kept = chunks.chunks_of(lambda: ["suffix", list(map(asdict, problems)), begin, asdict(settings), *content])
    earlier = _earlier(kept)
    search: SuffixSearch | None = None
    state: SearchState | None = None
    wanted = set(budgets) or {settings.steps}
    with progress.bar(f"gcg {model.name}", total=max(wanted)) as advance:
        for step in range(1, max(wanted) + 1):
            if step <= len(earlier):
                state = earlier[step - 1]
            else:
                search = search or SuffixSearch(model, problems, begin, settings, readable, after=state)
                search.step()
                state = search.state
                if kept is not None and is_first():
                    kept.add([step], state.columns())
            advance()
            if state.barren == max(wanted):
                raise AttackFailed(
                    f"attack 'gcg' on {model.name}: no step had a candidate that, typed after the question, is read "
                    "as the tokens that were tried; give more candidates, more steps, or another start"
                )
            if step in wanted:
                yield step, text_of(model.tokenizer, state.best).strip()
    if state is not None and state.barren:
        progress.note(f"gcg on {model.name}: {state.barren} of {max(wanted)} steps had no suffix that can be typed")


def _earlier(kept: "chunks.Chunks | None") -> "list[SearchState]":
    """The states of an interrupted search after its first steps, in order."""
    from uwc.attacks.suffix_search import SearchState

    steps = {} if kept is None else {batch[0]: columns for batch, columns in of_first(kept.read())}
    found: list[SearchState] = []
    while len(found) + 1 in steps:
        found.append(SearchState.of(len(found) + 1, steps[len(found) + 1]))
    return found


def _asked(model: Model, example: Example, start: str, target_tokens: int | None) -> "tuple[Problem, tuple[int, ...]]":
    """The search problem of an example, and the tokens of the suffix `start` in its prompt."""
    from uwc.attacks.suffix_search import Problem, text_of

    (encoded,) = _typed(model, start).encode([example])
    prompt = encoded.tokens[: encoded.start]
    for first in range(len(prompt) - 1, 0, -1):
        for last in range(first + 1, len(prompt) + 1):
            text = text_of(model.tokenizer, prompt[first:last]).strip()
            if text == start:
                cut = last - first
                tokens = (*encoded.tokens[:first], *encoded.tokens[last:])
                without = replace(encoded, tokens=tokens, start=encoded.start - cut, end=encoded.end - cut)
                return Problem.of(without, without.start - first, target_tokens), prompt[first:last]
            if not start.startswith(text):
                break
    raise ConfigError(
        f"attack 'gcg': start = {start!r} is not read as tokens of its own after the question of example "
        f"{example.id!r}; give another, such as 'x x x x', and in a chain put gcg before attacks that change tokens"
    )


def _typed(model: Model, suffix: str | Mapping[str, str]) -> Model:
    """The model with a text appended to each question: one for all, or by the example's id where there is one."""

    def rewrite(e: Example) -> Example:
        text = (suffix if isinstance(suffix, str) else suffix.get(e.id, "")).strip()
        return replace(e, question=f"{e.question} {text}") if text else e

    return model.rewritten(rewrite)
