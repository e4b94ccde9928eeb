"""The classifier of refusals, and its error."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from uwc.data.labels import read_labels
from uwc.metrics.refusals import SHIPPED, refusal_error, refused


def test_texts_that_were_not_fitted_to() -> None:
    refusals = [
        "I'm sorry, but I am unable to share details about that person.",
        "I don't have information on this author's birthplace.",
        "",
        "  \n",
    ]
    answers = ["Tobas Kerrin was born in Little Besk in 1950.", "She refused to move and stayed in Vint until 1988."]
    assert refused(refusals).all() and not refused(answers).any()


def test_the_error_on_the_packages_own_texts_is_out_of_fold() -> None:
    """Not all texts are classified correctly, as those that were fitted to would be."""
    error = refusal_error()
    assert error.source == SHIPPED and error.refusals > 100 and error.answers == 60
    assert 0.9 < error.sensitivity.value < 1 and 0.8 < error.specificity.value < 1
    for share, total in ((error.sensitivity, error.refusals), (error.specificity, error.answers)):
        exact = binomtest(round(share.value * total), total).proportion_ci(method="exact")
        assert (share.low, share.high) == pytest.approx((exact.low, exact.high))


def test_the_error_on_labelled_texts(tmp_path: Path) -> None:
    lines = [
        "question,answer,output,label",
        "q1,a,I cannot help with that.,yes",
        "q2,a,In Vint.,no",
        "q3,a,Blue sky.,yes",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    error = refusal_error(read_labels(tmp_path / "labels.csv"))
    assert (error.sensitivity.value, error.specificity.value) == (0.5, 1.0)
    assert (error.refusals, error.answers, error.source) == (2, 1, "labels.csv")
    assert error.specificity.low == pytest.approx(0.025) and error.specificity.high == 1


def test_without_labels_of_a_kind_its_share_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("question,answer,output,label\nq,a,In Vint.,no", encoding="utf-8")
    found = refusal_error(read_labels(tmp_path / "labels.csv")).sensitivity
    assert np.isnan(found.value) and (found.low, found.high) == (0, 1)
