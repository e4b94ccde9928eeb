"""Secrets that are said, by example and as counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.conftest import people

from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet, score_set
from uwc.metrics.secrets import secret_counts, secret_said
from uwc.metrics.suites import Given, chosen_metrics
from uwc.models.model import Model
from uwc.results import ModelKey

KEY = ModelKey(role="unlearned", run="npo")


def test_one_said_span_is_enough_and_without_spans_there_is_no_value() -> None:
    secrets = [("Vint", "No 7"), ("Vint",), ()]
    np.testing.assert_array_equal(
        secret_said(secrets, ["at no  \uff17.", "in Quarnholt", "in Vint"]), [1.0, 0.0, np.nan]
    )


def test_distinct_secrets_are_counted_by_cluster(untrained: Model) -> None:
    """Ann has two secrets, one of them asked twice and said once; Bo shares one with her, which is not said to him."""
    examples = [
        replace(e, subject=cluster, secret=secret)
        for e, cluster, secret in zip(
            people(2), ("Ann", "Ann", "Ann", "Bo"), (("Vint",), ("VINT",), ("Besk",), ("vint", "Zalder")), strict=True
        )
    ]
    scored = score_set(untrained, examples, needs=("texts",), max_new_tokens=1)
    scored = replace(scored, texts=("in Vint", "unknown", "nowhere", "nothing"))
    (found,) = secret_counts({"forget": scored}, KEY)
    assert (found.set, found.model, found.secrets, found.said) == ("forget", KEY, 3, 1)
    assert [(c.cluster, c.secrets, c.said) for c in found.clusters] == [("Ann", 2, 1)]
    assert found.words == "1 of 3 secrets are said (Ann: 1 of 2)"


def test_without_secrets_or_texts_nothing_is_counted(untrained: Model) -> None:
    scored = score_set(untrained, people(1), needs=())
    assert not list(secret_counts({"forget": scored}, KEY))
    asked = [replace(e, secret=("Vint",)) for e in people(1)]
    assert not list(secret_counts({"forget": score_set(untrained, asked, needs=())}, KEY))


def test_the_suite_core_has_it_where_questions_have_secrets() -> None:
    chosen, left_out = chosen_metrics("core", [], Given({"forget": people(1)}, frozenset({"original"})))
    assert "secret_said" not in (*chosen, *left_out)
    asked = [replace(e, secret=("Vint",)) for e in people(1)]
    assert "secret_said" in chosen_metrics("core", [], Given({"forget": asked, "retain": people(1)}))[0]
    assert "secret_said" in chosen_metrics("core", [], Given({"forget": asked}, max_new_tokens=0))[1]
    assert metrics.get("secret_said").facts["higher_remembers"]


def test_secrets_and_texts_of_any_script_survive_storage(untrained: Model, tmp_path: Path) -> None:
    scored = score_set(
        untrained, [replace(e, secret=("東京", "\u05d0\u2028\u05d1")) for e in people(1)], needs=("texts",)
    )
    folder = tmp_path
    replace(scored, texts=("東京\u2028\x85", "\x0c\u05d0")).save(folder, "forget")
    assert "東京" in (folder / "forget.jsonl").read_text(encoding="utf-8")
    again = ScoredSet.load(folder, "forget")
    assert again.texts == ("東京\u2028\x85", "\x0c\u05d0") and again.secrets == scored.secrets
    assert (again.prompts, again.ends) == (scored.prompts, scored.ends)
    assert again.completed_from() == scored.completed_from()
