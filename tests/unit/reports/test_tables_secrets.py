"""The secrets that the models of a study say, in a sentence and as rows."""

from tests.helpers.results_factory import study_results

from uwc.reports.tables import secret_words, summary
from uwc.results import ClusterSecrets, ModelKey, SecretCount


def test_secrets_are_counted_by_model_and_cluster() -> None:
    ann = ClusterSecrets(cluster="Ann", secrets=5, said=3)
    said = {
        ModelKey(role="original"): 9,
        ModelKey(role="unlearned", run="npo"): 3,
        ModelKey(role="calibrated", run="npo"): 4,
    }
    counts = tuple(
        SecretCount(set=name, model=key, secrets=9, said=n, clusters=(ann,))
        for name in ("forget", "retain")
        for key, n in said.items()
    )
    results = study_results().model_copy(update={"secrets": counts})
    (sentence,) = secret_words(results)
    assert "in the answers, of 9: " in sentence and "original 9" in sentence and "npo 3 (calibrated 4)" in sentence
    assert summary(results)[-1] == sentence
    rows = list(results.secret_rows())
    assert len(rows) == 12
    assert rows[:2] == [
        {"model": "original", "role": "original", "set": "forget", "cluster": "", "secrets": 9, "said": 9},
        {"model": "original", "role": "original", "set": "forget", "cluster": "Ann", "secrets": 5, "said": 3},
    ]
    assert not secret_words(study_results())
