"""Questions that are asked again belong to one cluster."""

import numpy as np
import pytest

from uwc.data.benchmark import Benchmark
from uwc.data.example import Example, clustered, repeated
from uwc.data.question_files import sets_of
from uwc.metrics.stats import aggregate, aggregate_sets, cluster_codes, paired_difference
from uwc.metrics.suites import question_warnings


def asked(*questions: str, subjects: str = "") -> list[Example]:
    names = subjects or " " * len(questions)
    return [
        Example(str(i), q, f"answer {i}", subject=s.strip())
        for i, (q, s) in enumerate(zip(questions, names, strict=True))
    ]


@pytest.mark.parametrize(
    ("questions", "subjects", "clusters"),
    [
        ("abc", "", [0, 1, 2]),
        ("aba", "", [0, 1, 0]),
        (["Who  is it?", "who is\nIT?", "\uff37\uff48\uff4f is it?", "Who is he?"], "", [0, 0, 0, 1]),
        (["straße", "STRASSE", "ﬁn", "fin"], "", [0, 0, 1, 1]),
        ("abcd", "xxyy", [0, 0, 1, 1]),
        ("abcbd", "xxyyz", [0, 0, 0, 0, 1]),  # x and y share the question b
        ("abbccd", "xxyyzw", [0, 0, 0, 0, 0, 1]),  # x-y by b, y-z by c
        ("aba", " x ", [0, 1, 0]),
        ("aab", " xx", [0, 0, 0]),
        ("aaaa", "xx  ", [0, 0, 0, 0]),
    ],
)
def test_the_clusters_are_the_connected_components(questions: str, subjects: str, clusters: list[int]) -> None:
    merged = clustered(asked(*questions, subjects=subjects))
    assert cluster_codes([e.subject for e in merged]).tolist() == clusters


def test_without_repetitions_nothing_changes() -> None:
    examples = asked(*"abcdef", subjects="xxy  z")
    assert all(after is before for after, before in zip(clustered(examples), examples, strict=True))


def test_other_earlier_turns_make_another_question() -> None:
    turns = [(("user", word), ("assistant", "yes")) for word in ("one", "two", "One")]
    examples = [Example(str(i), "And then?", "a", history=history) for i, history in enumerate(turns)]
    assert cluster_codes([e.subject for e in clustered(examples)]).tolist() == [0, 1, 0]


def test_every_row_twice_leaves_all_intervals_as_they_are() -> None:
    random = np.random.default_rng(0)
    first, second, other = random.random((3, 50))
    once = asked(*map(str, range(50)))
    twice = clustered([*once, *(Example(f"{e.id}b", e.question.upper(), "another") for e in once)])
    alone, both = [""] * 50, [e.subject for e in twice]

    def doubled(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values])

    def auc(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float((ours[:, None] < theirs).mean())

    groups = {"groups": ["forget", "holdout"]}
    for expected, found in [
        (aggregate(first, alone), aggregate(doubled(first), both)),
        (aggregate(first, alone, average="geometric"), aggregate(doubled(first), both, average="geometric")),
        (paired_difference(first, second, alone), paired_difference(doubled(first), doubled(second), both)),
        (
            aggregate_sets(auc, [first, other], [alone, alone], **groups),
            aggregate_sets(auc, [doubled(first), doubled(other)], [both, both], **groups),
        ),
    ]:
        assert found.n == 2 * expected.n and found.clusters == expected.clusters
        for name in ("mean", "se", "low", "high"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_sets_and_benchmarks_are_clustered_each_by_itself() -> None:
    forget, retain = asked(*"aba"), [Example("r", "a", "other")]
    sets = sets_of({"forget": forget, "retain": retain})
    assert [e.subject for e in sets["forget"]] == ["question of 0", "", "question of 0"]
    assert sets["retain"] == retain
    assert Benchmark("b", {"forget": tuple(forget), "retain": tuple(retain)}).splits == {
        name: tuple(examples) for name, examples in sets.items()
    }


def test_repetitions_are_a_warning_with_their_number() -> None:
    sets = {"forget": clustered(asked(*"abcdefafa"))}
    assert repeated(sets["forget"]) == 3
    found = {warning.code: warning.text for warning in question_warnings(sets)}
    assert set(found) == {"repeated_questions", "no_subjects"} and found["repeated_questions"].startswith("3 of ")
    few = question_warnings({"forget": clustered(asked(*"abcdaaaa"))})
    assert "few_clusters" in {warning.code for warning in few}
