"""What every metric must keep to; a new one is covered without a new test."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import copied, people, tiny_model

from uwc.catalogue import explain
from uwc.data.example import Example
from uwc.metrics.depth import Depth
from uwc.metrics.registry import INPUTS, JUDGES, RAW_INPUT, metrics, set_metrics
from uwc.metrics.samples import LeakSettings, SampleScores
from uwc.metrics.scored import ScoredSet, needs_of, score_set
from uwc.metrics.semantics import Judges
from uwc.metrics.suites import SUITES, Given, chosen_metrics, split_input
from uwc.models.model import Model
from uwc.models.patching import patched_drops
from uwc.models.token_scores import TokenScores

ALL = [e.name for e in metrics]
EVERYTHING = needs_of(ALL)
BATCH_CHANGES = 2e-3
"""How far other batches may move a value: float32 sums in another order."""


def complete() -> list[Example]:
    """Everything that any metric may want to know; the model of the fixture knows the first eight by heart."""
    return [
        replace(
            e, paraphrased_answer=e.answer, perturbed_answers=("In Rome", "She sings in a choir"), secret=(e.answer,)
        )
        for e in people()
    ]


def letters(texts: Sequence[str]) -> np.ndarray:
    return np.array([[1 + text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float)


def contains(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    return np.array([h.lower() in p.lower() for p, h in zip(premises, hypotheses, strict=True)])


def contradicts(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    return ~contains(premises, hypotheses)


def clean(texts: Sequence[str]) -> np.ndarray:
    return np.array([1.0 / (1.0 + len(text)) for text in texts])


def says_the_answer(prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
    """Log-probabilities of yes and no by whether the true answer stands in the text."""
    rows = []
    for prompt, word in zip(prompts, continuations, strict=True):
        answer, _, text = prompt.partition("True answer: ")[2].partition("\n")
        right = (answer in text.partition("\n")[0]) == (word.lower() == "yes")
        rows.append([np.log(0.4 if right else 0.1), 1.0 + len(word)])
    return np.array(rows)


JUDGE = Judges(letters, contains, contradicts, clean, says_the_answer)
OF_LANGUAGE = (
    *("token_diversity", "generated_perplexity", "brunet_index", "honore_statistic", "fluency"),
    *("judge_relevant", "judge_fluent"),
)
"""Metrics of the language of texts, which do not depend on what is remembered."""


def score(model: Model, examples: list[Example], reference: Model, **options: Any) -> ScoredSet:
    leaks = LeakSettings(count=16, at_least=0.5)
    scored = score_set(
        model, examples, needs=EVERYTHING, reference=reference, max_new_tokens=24, leaks=leaks, **options
    )
    return scored.judged_by(JUDGE, ALL)


def with_depth(
    scored: ScoredSet, examples: list[Example], original: Model, model: Model, budget: int | None = None
) -> ScoredSet:
    """The scored set with the drops of the original: with the states of a model of its size that saw nothing, and with
    those of `model`."""
    unseen = tiny_model(hidden_size=64, seed=3)
    known, changed = (
        patched_drops(original, source, {"": examples}, token_budget=budget)[""] for source in (unseen, model)
    )
    return replace(scored, depth=Depth("answer", known, changed))


@pytest.fixture(scope="module")
def scored(knowing: Model, untrained: Model) -> ScoredSet:
    return with_depth(score(knowing, complete(), untrained), complete(), knowing, tiny_model(hidden_size=64))


@pytest.fixture(scope="module")
def reordered(knowing: Model, untrained: Model) -> ScoredSet:
    examples = complete()[::-1]
    found = score(knowing, examples, untrained, token_budget=1)
    return with_depth(found, examples, knowing, tiny_model(hidden_size=64), budget=1)


@pytest.fixture(scope="module")
def remembered(knowing: Model) -> ScoredSet:
    return with_depth(score(knowing, complete()[:8], knowing), complete()[:8], knowing, copied(knowing))


@pytest.fixture(scope="module")
def never_seen(untrained: Model, knowing: Model) -> ScoredSet:
    found = score(untrained, complete()[:8], knowing)
    return with_depth(found, complete()[:8], knowing, tiny_model(hidden_size=64))


@pytest.mark.parametrize("entry", [*metrics, *set_metrics], ids=lambda e: e.name)
def test_declares_what_users_and_tables_need(entry: Any) -> None:
    low, high = entry.facts["range"]
    assert low < high
    assert entry.facts["higher_remembers"] in (True, False, None)
    assert entry.facts["label"] and entry.source and entry.summary.endswith(".")
    assert entry.name in explain(entry.name)


@pytest.mark.parametrize("entry", list(metrics), ids=lambda e: e.name)
def test_needs_are_known_and_documented(entry: Any) -> None:
    assert set(entry.facts["needs"]) <= set(INPUTS)
    assert entry.facts["unscored"]
    document = entry.function.__doc__ or ""
    assert "``" in document or "ROUGE" in document, "the formula is missing"
    assert "Returns:" in document


@pytest.mark.parametrize("entry", list(set_metrics), ids=lambda e: e.name)
def test_set_metrics_ask_for_metrics_that_there_are(entry: Any) -> None:
    for text in (*entry.facts["needs"], *entry.facts.get("optional", ())):
        name = split_input(text)[2]
        assert name in ALL or name.removeprefix(RAW_INPUT) in INPUTS
    if any(RAW_INPUT in text for text in entry.facts["needs"]):
        assert "prepare" in entry.facts


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_one_float64_value_an_example_within_the_range(name: str, scored: ScoredSet) -> None:
    values = scored.values(name)
    low, high = metrics.get(name).facts["range"]
    assert values.shape == (len(scored.answers),) and values.dtype == np.float64
    assert not np.isnan(values).any()
    assert (values >= low - 1e-9).all() and (values <= high + 1e-9).all()


@pytest.mark.parametrize("name", ALL)
def test_padding_and_order_change_nothing(name: str, scored: ScoredSet, reordered: ScoredSet) -> None:
    """One example a batch, in reverse, against all together."""
    together, alone = scored.values(name), reordered.values(name)[::-1]
    if metrics.get(name).facts["average"] == "geometric":
        together, alone = np.log(together), np.log(alone)
    assert together == pytest.approx(alone, abs=BATCH_CHANGES, rel=BATCH_CHANGES)


@pytest.mark.parametrize("name", [n for n in ALL if n not in OF_LANGUAGE])
def test_what_is_remembered_stands_on_the_declared_side(
    name: str, remembered: ScoredSet, never_seen: ScoredSet
) -> None:
    """A model that knows the answers by heart against one that never saw them, on the same questions."""
    sign = 1 if metrics.get(name).facts["higher_remembers"] else -1
    assert sign * remembered.aggregate(name).mean > sign * never_seen.aggregate(name).mean


EMPTY = TokenScores(
    ids=("0",), subjects=("",), variants=("answer",), offsets=np.array([0, 0]),
    end_lengths=np.array([0]), finite=np.array([True]),
    logprob=np.zeros(0, np.float32), greedy=np.zeros(0, bool), stops=np.zeros(0, bool),
    mean_logprob=np.zeros(0, np.float32), var_logprob=np.zeros(0, np.float32), kl=np.zeros(0, np.float32),
    reference_logprob=np.zeros(0, np.float32), sampled={"temperature=1 top_k=40": np.zeros(0, np.float32)},
)  # fmt: skip
EMPTY_INPUTS: dict[str, Any] = {
    "scores": EMPTY, "reference": EMPTY, "restated": EMPTY, "perturbed": EMPTY, "sampled": EMPTY, "answers": [""],
    "samples": SampleScores(np.full((1, 16), np.nan), np.full((1, 16), np.nan), np.array([True])),
    "letters": [np.zeros(0)],
    "labelled": [""], "texts": [""], "text_tokens": [[]], "secrets": [()],
    "gradient_norms": np.array([np.nan]), "similar_from": np.array([0.0]),
    "depth": Depth("answer", np.full((1, 2), np.nan), np.full((1, 2), np.nan)),
    "encoder": lambda texts: np.zeros((len(texts), 2)), "entailment": lambda a, b: np.zeros(len(a), bool),
    "contradiction": lambda a, b: np.ones(len(a), bool), "classifier": lambda texts: np.ones(len(texts)),
    "language_model": lambda a, b: np.zeros((len(a), 2)), "questions": [""],
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_an_empty_answer_is_not_scored(name: str) -> None:
    entry = metrics.get(name)
    value = entry.function(*(EMPTY_INPUTS[need] for need in entry.facts["needs"]))
    assert np.isnan(value).all()


@pytest.mark.parametrize("suite", [*SUITES, "all"])
def test_every_suite_can_be_had_when_everything_is_given(suite: str) -> None:
    grouped = [replace(e, id=f"Task{i % 3 + 1}/{i}/{'sc' if i % 2 else 'qa'}0") for i, e in enumerate(complete())]
    sets = dict.fromkeys(("holdout", "real_authors", "world_facts", "verbatim", "members"), complete())
    sets |= {"forget": grouped, "retain": grouped}
    models = frozenset({"original", "retrained", *JUDGES})
    chosen, left_out = chosen_metrics(suite, [], Given(sets, models))
    assert not left_out
    assert chosen == list(SUITES.get(suite, [*ALL, *set_metrics.names()]))
