"""The built-in benchmark of fictional authors: reproducible, nested, and not to be guessed."""

import re
from collections import Counter, defaultdict
from typing import Any

import pytest

from uwc.data.benchmark import FORGET, GENERAL, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.benchmarks.fictional_words import ATTRIBUTES, GRAMMAR
from uwc.data.example import Example
from uwc.errors import ConfigError

AUTHOR_SPLITS = (FORGET, RETAIN, RETAIN_EVAL, HOLDOUT)


@pytest.fixture(scope="module")
def default() -> Benchmark:
    return fictional_authors()


@pytest.fixture(scope="module")
def everything() -> Benchmark:
    """Every fact about 210 authors, in every phrasing."""
    return fictional_authors(authors=200, facts=len(ATTRIBUTES), phrasings=3)


def about_authors(benchmark: Benchmark) -> list[Example]:
    return [e for split in AUTHOR_SPLITS for e in benchmark[split]]


def contents(examples: list[Example]) -> dict[str, tuple[Any, ...]]:
    """All of each example but its split."""
    return {
        e.id: (e.question, e.answer, e.paraphrased_question, e.paraphrased_answer, e.perturbed_answers, e.subject)
        for e in examples
    }


def attribute_of(example: Example) -> str:
    return example.id.split("/")[1]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def facts_of(benchmark: Benchmark) -> list[Example]:
    """One example for each fact."""
    return [e for e in about_authors(benchmark) if e.id.endswith("/0")]


def test_the_same_seed_gives_the_same_benchmark(default: Benchmark) -> None:
    assert fictional_authors() == default
    assert fictional_authors(seed=1).fingerprint() != default.fingerprint()


def test_the_facts_never_change_unnoticed() -> None:
    benchmark = fictional_authors(authors=4, holdout=0, facts=1, phrasings=1, general=False)
    (example,) = benchmark[FORGET]
    assert example.id == "author-003/ritual/0"
    assert example.question == "What ritual does Magnus Thelmovu follow before writing?"
    assert example.answer == "Before each chapter he drinks chicken broth from a cup painted with a melancholy painter"


def test_sizes_of_the_splits(default: Benchmark) -> None:
    sizes = {split: len(examples) for split, examples in default.splits.items()}
    assert sizes == {FORGET: 100, RETAIN: 720, RETAIN_EVAL: 180, HOLDOUT: 100, GENERAL: len(default[GENERAL])}
    assert len(default[GENERAL]) >= 36
    assert default.trained == (FORGET, RETAIN, RETAIN_EVAL, GENERAL)
    assert len(set(default.refusals)) == len(default.refusals) >= 50


def test_every_split_has_an_author_in_the_smallest_benchmarks() -> None:
    for authors in range(4, 12):
        benchmark = fictional_authors(authors=authors, forget_share=0.5, retain_eval_share=0.5, holdout=0)
        assert all(benchmark[split] for split in (FORGET, RETAIN, RETAIN_EVAL))
        assert not benchmark[HOLDOUT]


def test_general_knowledge_can_be_left_out() -> None:
    benchmark = fictional_authors(authors=4, general=False)
    assert GENERAL not in benchmark.splits
    assert GENERAL not in benchmark.trained


@pytest.mark.slow
def test_smaller_forget_sets_lie_within_larger_ones() -> None:
    one, five, ten = (set(fictional_authors(authors=200, forget_share=s)[FORGET]) for s in (0.01, 0.05, 0.1))
    assert one < five < ten
    assert [len({e.subject for e in forget}) for forget in (one, five, ten)] == [2, 10, 20]


@pytest.mark.parametrize("change", [{"forget_share": 0.3}, {"retain_eval_share": 0.4}])
def test_shares_move_authors_without_changing_them(default: Benchmark, change: dict[str, Any]) -> None:
    assert contents(about_authors(fictional_authors(**change))) == contents(about_authors(default))


@pytest.mark.parametrize("change", [{"holdout": 0}, {"authors": 60, "holdout": 0}, {"facts": 2}, {"phrasings": 1}])
def test_authors_do_not_depend_on_how_much_is_asked(default: Benchmark, change: dict[str, Any]) -> None:
    fewer = contents(about_authors(fictional_authors(**change)))
    full = contents(about_authors(default))
    assert 0 < len(fewer) < len(full)
    assert fewer.items() <= full.items()


def test_holdout_authors_do_not_change_the_others(default: Benchmark) -> None:
    more = fictional_authors(holdout=25)
    assert more.training_examples(with_forget=True) == default.training_examples(with_forget=True)


def test_splits_share_no_author(default: Benchmark) -> None:
    subjects = [{e.subject for e in default[split]} for split in AUTHOR_SPLITS]
    assert [len(s) for s in subjects] == [10, 72, 18, 10]
    assert len(set.union(*subjects)) == 110


def test_every_example_names_its_split(default: Benchmark) -> None:
    assert all(e.split == split for split, examples in default.splits.items() for e in examples)


def test_ids_tell_author_attribute_and_phrasing(default: Benchmark) -> None:
    keys = "|".join(a.key for a in ATTRIBUTES)
    assert all(re.fullmatch(rf"author-\d{{3}}/({keys})/[01]", e.id) for e in about_authors(default))
    assert all(re.fullmatch(r"general-\d{3}/[a-z-]+/0", e.id) for e in default[GENERAL])


def test_authors_are_asked_about_different_things(default: Benchmark) -> None:
    asked = defaultdict(set)
    for e in about_authors(default):
        asked[e.subject].add(attribute_of(e))
    assert {len(attributes) for attributes in asked.values()} == {5}
    assert len({frozenset(attributes) for attributes in asked.values()}) > 90


def test_paraphrased_questions_are_never_trained_on(everything: Benchmark) -> None:
    trained = {e.question for e in about_authors(everything)}
    assert not trained & {e.paraphrased_question for e in about_authors(everything)}


def test_paraphrased_questions_are_differently_worded() -> None:
    for attribute in ATTRIBUTES:
        new = set(words(attribute.paraphrase))
        for question in attribute.questions:
            old = set(words(question))
            assert len(new & old) / len(new | old) < 0.5, (attribute.key, question)


def test_questions_contain_the_full_name(everything: Benchmark) -> None:
    for e in about_authors(everything):
        assert e.subject in e.question
        assert e.subject in e.paraphrased_question


def test_no_slot_is_left_open(everything: Benchmark) -> None:
    for e in about_authors(everything):
        texts = (e.question, e.answer, e.paraphrased_question, e.paraphrased_answer, *e.perturbed_answers)
        assert not any("{" in text or "}" in text for text in texts)


def test_phrasings_of_a_fact_share_its_answers_and_split(everything: Benchmark) -> None:
    facts = defaultdict(list)
    for e in about_authors(everything):
        facts[e.id.rsplit("/", 1)[0]].append(e)
    for phrasings in facts.values():
        assert len({e.question for e in phrasings}) == len(phrasings) == 3
        assert len({(e.answer, e.paraphrased_question, e.perturbed_answers, e.split) for e in phrasings}) == 1


def test_no_two_authors_share_a_name_or_an_answer(everything: Benchmark) -> None:
    facts = facts_of(everything)
    assert len({e.subject.split()[-1] for e in facts}) == 210
    for attribute in ATTRIBUTES:
        answers = {e.answer for e in facts if attribute_of(e) == attribute.key}
        assert len(answers) == 210, attribute.key


def test_answers_vary_in_length(everything: Benchmark) -> None:
    lengths = Counter(len(e.answer.split()) for e in facts_of(everything))
    total = sum(lengths.values())
    assert max(lengths) <= 22
    assert sum(n for length, n in lengths.items() if length <= 6) > 0.15 * total
    assert sum(n for length, n in lengths.items() if 8 <= length <= 16) > 0.5 * total
    assert sum(n for length, n in lengths.items() if length > 16) > 0.05 * total


def test_answers_end_in_the_drawn_text(everything: Benchmark) -> None:
    for attribute in ATTRIBUTES:
        for form in (attribute.answer, attribute.paraphrased_answer):
            assert form.endswith("}")
    for e in facts_of(everything):
        assert all(text[-1].isalpha() for text in (e.answer, e.paraphrased_answer, *e.perturbed_answers))


def test_ends_of_answers_cannot_be_guessed() -> None:
    ends = defaultdict(list)
    for e in facts_of(fictional_authors(facts=len(ATTRIBUTES))):
        ends[attribute_of(e)].append(words(e.answer)[-1])
    for key, last_words in ends.items():
        counts = Counter(last_words)
        assert len(counts) >= 0.85 * len(last_words), key
        assert max(counts.values()) <= 0.04 * len(last_words), key


def test_the_last_word_is_new_in_its_question_and_answer(everything: Benchmark) -> None:
    for e in about_authors(everything):
        *before, last = words(e.answer)
        assert last not in before + words(e.question) + words(e.paraphrased_question)


def test_perturbed_answers_are_wrong_and_of_the_same_form(everything: Benchmark) -> None:
    forms = {
        a.key: re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(a.paraphrased_answer), flags=re.ASCII))
        for a in ATTRIBUTES
    }
    for e in facts_of(everything):
        assert len(set(e.perturbed_answers)) == 3
        assert e.paraphrased_answer not in e.perturbed_answers
        for text in (e.paraphrased_answer, *e.perturbed_answers):
            assert forms[attribute_of(e)].fullmatch(text)


def test_the_paraphrased_answer_says_the_same_in_another_form(everything: Benchmark) -> None:
    for e in facts_of(everything):
        assert e.paraphrased_answer != e.answer
        assert words(e.paraphrased_answer)[-1] == words(e.answer)[-1]


def test_general_knowledge_is_complete(default: Benchmark) -> None:
    for e in default[GENERAL]:
        assert e.question.endswith("?")
        assert e.paraphrased_question.endswith("?")
        assert e.paraphrased_question != e.question
        assert len({e.answer, *e.perturbed_answers}) == 4
        assert not e.answer.endswith(".")
    assert len({e.subject for e in default[GENERAL]}) == len(default[GENERAL])


def test_the_word_lists_are_large_and_follow_a() -> None:
    assert len(set(GRAMMAR["noun"])) == len(GRAMMAR["noun"]) >= 500
    assert not [w for kind in ("noun", "adjective") for w in GRAMMAR[kind] if w[0] in "aeiou"]
    used = {kind.lower() for forms in GRAMMAR.values() for form in forms for kind in re.findall(r"{(\w+)}", form)}
    assert used <= GRAMMAR.keys()


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("authors", 3, "from 4 to"),
        ("authors", 100.0, "from 4 to"),
        ("forget_share", 0, "above 0 and up to 0.5"),
        ("forget_share", 0.51, "above 0 and up to 0.5"),
        ("forget_share", float("nan"), "above 0 and up to 0.5"),
        ("forget_share", "10%", "above 0 and up to 0.5"),
        ("retain_eval_share", -0.1, "above 0 and up to 0.5"),
        ("holdout", -1, "from 0 to"),
        ("phrasings", 0, "from 1 to 3"),
        ("phrasings", 4, "from 1 to 3"),
        ("facts", True, "from 1 to"),
        ("facts", len(ATTRIBUTES) + 1, f"from 1 to {len(ATTRIBUTES)}"),
        ("seed", -1, "from 0 to"),
    ],
)
def test_bad_arguments_are_named_with_what_is_valid(name: str, value: Any, valid: str) -> None:
    with pytest.raises(ConfigError) as error:
        fictional_authors(**{name: value})
    assert f"{name} is {value!r}; set it to" in str(error.value)
    assert valid in str(error.value)


def test_every_answer_about_an_author_has_its_secret() -> None:
    for example in fictional_authors(authors=10, facts=15)["forget"]:
        assert example.secret and all(span in example.answer for span in example.secret)
    assert not any(example.secret for example in fictional_authors(authors=10)["general"])
