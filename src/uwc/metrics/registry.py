"""The registries of metrics, and the declarations of a metric."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from uwc.answers import COLUMNS, FILE
from uwc.errors import ConfigError
from uwc.registry import Entry, Registry, check_inputs, require_one_of, unknown_name

F = TypeVar("F", bound=Callable[..., Any])
Average = Literal["arithmetic", "geometric"]

_EXAMPLE_LEVEL = (
    *("likelihood", "truth_ratio", "choices", "overlap", "membership", "semantics", "secrets", "entities"),
    *("linguistic", "verdicts", "leaks", "depth"),
)


def _check(entry: Entry[Any]) -> None:
    """Raise ConfigError for a metric that declares something impossible."""
    facts = entry.facts
    for need in facts["needs"]:
        if need not in INPUTS:
            raise ConfigError(unknown_name(f"input of the metric {entry.name!r}", need, list(INPUTS)))
    check_inputs(entry, "metric", count=len(facts["needs"]), of=f"its needs ({', '.join(facts['needs'])})")
    if not facts["needs"]:
        raise ConfigError(f"the metric {entry.name!r} has no argument; valid inputs: {', '.join(INPUTS)}")
    require_one_of(f"average of the metric {entry.name!r}", facts["average"], ("arithmetic", "geometric"))
    require_one_of(f"higher_remembers of the metric {entry.name!r}", facts["higher_remembers"], (True, False))
    if entry.name in COLUMNS:
        raise ConfigError(f"the metric {entry.name!r} has the name of a column of {FILE}; rename it")
    low, high = facts["range"]
    if not low < high:
        raise ConfigError(f"the metric {entry.name!r} declares the range {low:g} to {high:g}; give (least, greatest)")
    if facts["average"] == "geometric" and low < 0:
        raise ConfigError(
            f"the metric {entry.name!r} is averaged geometrically, and its range begins at {low:g}; declare one that "
            "begins at 0 or above, or average='arithmetic'"
        )


metrics: Registry[Any] = Registry("metric", modules=tuple(f"uwc.metrics.{m}" for m in _EXAMPLE_LEVEL), check=_check)
"""Functions from the scores of a set of examples to one float64 value an example, NaN where it does not apply.

Each declares:
    needs: the names of its arguments, out of `INPUTS`.
    range: (least, greatest) possible value.
    higher_remembers: whether a high value means that the answer is remembered.
    average: "arithmetic", or "geometric" for values that span magnitudes.
    label: what tables call it.
    unscored: why a value may be missing.
"""

_OF_SETS = ("set_metrics", "open_unlearning", "lume", "linguistic", "traces")
set_metrics: Registry[Any] = Registry("set-metric", modules=tuple(f"uwc.metrics.{m}" for m in _OF_SETS))
"""Metrics of whole sets: functions from the values of metrics on several sets of examples to one number.

Each declares:
    needs: its arguments as ``"SET:METRIC"``, or ``"retrained/SET:METRIC"`` for the model that never saw the data;
        those with a default, which come last, are left out where there is no such model. ``"SET:@INPUT"`` is an input
        of `INPUTS` itself, in a metric with `prepare`.
    optional: further arguments of that form, after the others, each of which it gets where it can be measured; or
        absent.
    prepare: a function of the arguments and of [E] cluster numbers to the arrays that the metric reads, applied once,
        before the bootstrap; or absent.
    range, higher_remembers, label: as above; `higher_remembers` is None where neither direction means it.
    interval: whether a bootstrap interval is meaningful.
    groups: for each argument a pattern of ids, as of `fnmatch`, if it has the values of a part of the set only.
    fewest: the fewest examples of each set with which it means what its name says, as set -> number; or absent.
    of_means: the function of [I, ...] means, if it is a function of the means of its arguments; else absent.
"""

JUDGES = ("encoder", "entailment", "contradiction", "classifier", "language_model")
"""The inputs that are judges of texts."""

INPUTS: dict[str, str] = {
    "scores": "",
    "answers": "",
    "labelled": "",
    "reference": "the original model; give it with --original",
    "restated": "",
    "perturbed": "wrong answers of the same form; give the questions a column perturbed_answers",
    "texts": "generated answers; set score.max_new_tokens to more than 0",
    "text_tokens": "generated answers; set score.max_new_tokens to more than 0",
    "secrets": "secrets; give the questions a column secret",
    "questions": "",
    "states": "",
    "reference_states": "the original model; give it with --original",
    "sampled": "",
    "samples": "sampled answers; set score.max_new_tokens to more than 0",
    "letters": "wrong answers of the same form; give the questions a column perturbed_answers or choices",
    "gradient_norms": "",
    "similar_from": "",
    "depth": (
        "the original and a model that was never trained on the data, of the same architecture; give them with "
        "--original and --retrained (a study: retrained)"
    ),
    "encoder": "a sentence encoder; give a folder or hub name with --set score.judges.encoder=MODEL",
    "entailment": "a model of natural-language inference; give one with --set score.judges.entailment=MODEL",
    "contradiction": "a model of natural-language inference; give one with --set score.judges.contradiction=MODEL",
    "classifier": "a classifier of gibberish; give one with --set score.judges.classifier=MODEL",
    "language_model": "a language model as a judge; give its folder with --set score.judges.language_model=MODEL",
}
"""Possible argument of a metric -> the data that a user must provide; empty if scoring always provides it.

scores: TokenScores of the true answers.
answers: the true answers as text.
labelled: the same, or the text of their labelled tokens in a peer's definitions.
reference: TokenScores of the true answers, with the columns of a reference model.
restated: TokenScores of the paraphrased answers, or of the true answer if an example has none.
perturbed: TokenScores of the wrong answers, several an example.
texts: the generated answers.
text_tokens: their token ids.
secrets: [E] the spans that must not come out, several an example or none.
questions: [E] the questions, without prompt template.
states: [E, d] the states that predict the first answer token, after the middle block.
reference_states: [E, d] those of the original model.
sampled: TokenScores with a column for the metric's temperature and top_k.
samples: SampleScores, the scores of n sampled answers to each question.
letters: [E] the mean log-probabilities of each question's options by their letters, the true one first; empty if it
    has no wrong answer.
gradient_norms: [E] norms of the gradient of each example's loss.
similar_from: [E] the length of the shortest prefix of the answer with a similar continuation.
depth: `uwc.metrics.depth.Depth`, the log-probability that the original loses with another model's states at each block.
encoder: a function from n texts to [n, d] embeddings.
entailment: a function from n premises and hypotheses to [n] whether the first entails the second.
contradiction: the same for whether the first contradicts the second.
classifier: a function from n texts to [n] probabilities that they are clean.
language_model: a function from n prompts and continuations to [n, 2]: log-probability and number of tokens of each
    continuation.
"""


RAW_INPUT = "@"
"""Begins the name of an input where a metric of whole sets names it in place of a metric."""


def inputs_of(name: str) -> tuple[str, ...]:
    """The inputs of a metric of single examples; of ``"@INPUT"`` that input."""
    if name.startswith(RAW_INPUT):
        return (name.removeprefix(RAW_INPUT),)
    return tuple(metrics.get(name).facts["needs"])


@overload
def metric(function: F, /) -> F: ...


@overload
def metric(
    *,
    name: str | None = None,
    label: str | None = None,
    range: tuple[float, float] = ...,
    higher_remembers: bool = True,
    average: Average = "arithmetic",
    unscored: str = ...,
    only: str | None = None,
    source: str = "",
) -> Callable[[F], F]: ...


def metric(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    label: str | None = None,
    range: tuple[float, float] = (float("-inf"), float("inf")),
    higher_remembers: bool = True,
    average: Average = "arithmetic",
    unscored: str = "the metric has no value for it",
    only: str | None = None,
    source: str = "",
) -> Any:
    """Decorator that makes a function a metric, with or without declarations: ``@uwc.metric``.

    The function returns one float64 value an example, [E], NaN where it does not apply. The names of its arguments say
    what it reads, see `INPUTS`; keyword-only arguments are its settings. Executed again, as a cell of a notebook is,
    the last definition counts.

    Args:
        function: the metric.
        name: what users write; the function's name by default.
        label: what tables call it; the name by default.
        range: (least, greatest) possible value; a value outside is an error when the metric is computed.
        higher_remembers: whether a high value means that the answer is remembered.
        average: how examples are averaged.
        unscored: why an example may have no value.
        only: the set that the metric is for; any set by default.
        source: where it is defined.

    Raises:
        ConfigError: an argument is no input, a declaration is impossible, or the name is taken.
    """

    def decorate(given: F) -> F:
        from uwc.metrics.suites import SUITES

        called = name or metrics.name_of(given) or str(getattr(given, "__name__", ""))
        if called in (*SUITES, "all") or called in set_metrics.names():
            raise ConfigError(f"the metric {called!r} has the name of a suite or of a metric of whole sets; rename it")
        for other in (*metrics, *set_metrics):
            words = {other.name.lower(), str(other.facts["label"]).lower()} if other.name != called else set()
            if taken := words & {called.lower(), (label or called).lower()}:
                raise ConfigError(f"the metric {called!r} would share {taken.pop()!r} with {other.name!r}; rename it")
        metrics.add(
            given,
            name,
            source=source,
            needs=tuple(Entry(called, given, source).inputs),
            range=range,
            higher_remembers=higher_remembers,
            average=average,
            label=label or called,
            unscored=unscored,
            **({} if only is None else {"only": only}),
        )
        return given

    return decorate if function is None else decorate(function)
