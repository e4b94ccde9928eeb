"""A tiny language model as a judge, and classifiers made in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import people
from tests.helpers.judge_models import classifier

import uwc
from uwc.data.example import Example
from uwc.errors import ConfigError, ModelError
from uwc.metrics.semantics import Judges
from uwc.metrics.verdicts import judge_says
from uwc.models.judges import AS_IT_IS, language_model_of_texts, load_classifier, load_language_model
from uwc.models.load import save_model
from uwc.models.model import Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, knowing: Model) -> Path:
    """A language model that knows people by heart."""
    folder = tmp_path_factory.mktemp("judge") / "judge"
    save_model(knowing, folder)
    return folder


def test_log_probabilities_are_those_of_a_plain_pass(folder: Path, knowing: Model) -> None:
    """Sums over the continuation's tokens, without the end; repeated pairs and prompts keep their places."""
    ask = load_language_model(folder, device="cpu")
    prompts = ["Is it so?", "Where was Ann born?", "Is it so?", "Is it so?"]
    continuations = ["yes", "In Rome", "no", "yes"]
    found = ask(prompts, continuations)
    for prompt, continuation, (total, count) in zip(prompts, continuations, found, strict=True):
        (encoded,) = AS_IT_IS.encode([Example("0", prompt, continuation)], knowing.tokenizer, max_length=99)
        with torch.no_grad():
            logits = knowing.model.cpu()(input_ids=torch.tensor([encoded.tokens])).logits[0].log_softmax(dim=-1)
        places = range(encoded.start, encoded.end)
        assert total == pytest.approx(sum(float(logits[t - 1, encoded.tokens[t]]) for t in places), rel=1e-4)
        assert count == len(places)
    assert ask([], []).shape == (0, 2)
    long = ask(["Is it so? " * 99, "Is it so?"], ["yes", "yes"])
    assert np.isnan(long[0]).all() and long[1] == pytest.approx(found[0])


def test_verdicts_in_words_are_certain_or_none() -> None:
    """The first word counts, whatever its letters; another answer is no verdict."""
    said = {"a": "**Yes**, it does.", "b": "NO", "c": "Perhaps yes", "d": ""}

    def says(examples: Sequence[Example], _most: int) -> list[str]:
        return [said[e.question[-1]] for e in examples]

    texts = [f"text {name}" for name in said]
    judge = language_model_of_texts(says)
    for value in ("verdict", "probability"):
        found = judge_says(["?"] * 4, ["x"] * 4, texts, judge, prompt="{text}", value=value)
        np.testing.assert_array_equal(found, [1.0, 0.0, np.nan, np.nan])


def test_a_score_with_a_judge_names_it_and_says_that_it_was_not_checked(
    folder: Path, knowing: Model, tmp_path: Path
) -> None:
    found = uwc.score(
        knowing,
        people()[:4],
        metrics=["judge_says", "generated_perplexity", "linguistic_score_forget"],
        judges={"language_model": folder},
        settings={"judge_says": {"least_mass": 0.0, "prompt": "{question} {text} ({answer})?"}},
        max_new_tokens=8,
        output_dir=tmp_path,
        device="cpu",
    )
    (judge,) = found.judges
    assert judge.judge == "language_model" and len(judge.sha256) == 64 and set(judge.prompts) == {"judge_says"}
    assert [w.code for w in found.warnings if w.code.startswith("judge")] == ["judge_not_checked"]
    by_metric = {(s.set, s.metric): s for s in found.scores}
    assert by_metric["forget", "judge_says"].n == 4
    perplexity = by_metric["forget", "generated_perplexity"].mean
    values = found.answers.query("set == 'forget'")
    words = [by_metric["forget", "linguistic_score_forget"].mean, perplexity]
    assert np.isfinite(words).all() and 0 < words[0] < 1 <= words[1]
    assert values["generated_perplexity"].mean() == pytest.approx(perplexity)


def test_a_judge_reads_its_own_answers_with_the_perplexity_of_the_model(folder: Path, knowing: Model) -> None:
    """The judge is the model itself: the perplexity of an answer that it knows by heart is near 1."""
    ask = Judges.load({"language_model": folder}, device="cpu").language_model
    assert ask is not None
    example = people()[0]
    (total, count), (other, _) = ask(
        [f"Question: {example.question}\nAnswer:"] * 2, [example.answer, "She sings in a choir"]
    )
    assert -total / count < 1.0 < -other / 5


def test_a_classifier_gives_the_probability_of_its_label(tmp_path: Path) -> None:
    path = classifier(tmp_path / "c", ("clean", "Noise", "word salad"), (0.0, np.log(2.0), np.log(5.0)))
    assert load_classifier(path, clean="Clean", device="cpu")(["a", "b a"]) == pytest.approx([1 / 8] * 2)
    judges = Judges.load({"classifier": path, "clean": "noise"}, device="cpu")
    assert judges.classifier is not None and judges.classifier(["a"]) == pytest.approx([2 / 8])
    with pytest.raises(ModelError, match=r"no label 'good'.*score.judges.clean, one of clean, noise, word salad"):
        load_classifier(path, clean="good", device="cpu")


def test_labels_are_checked_before_any_model_is_loaded(tmp_path: Path, knowing: Model) -> None:
    path = classifier(tmp_path / "c", ("good", "bad"), (0.0, 0.0))
    with pytest.raises(ModelError, match="no label 'clean'"):
        uwc.score("nowhere", people()[:4], metrics="fluency", judges={"classifier": path})
    with pytest.raises(ModelError, match="contradiction needs a label 'contradiction', and it has good, bad"):
        uwc.score("nowhere", people()[:4], metrics="KFR", judges={"contradiction": path})
    for judges in ({"clean": "good"}, {"classifier": lambda texts: np.ones(len(texts)), "clean": "good"}):
        with pytest.raises(ConfigError, match=r"score\.judges\.classifier"):
            uwc.score(knowing, people()[:4], judges=judges)


def test_one_model_of_inference_is_loaded_once_for_both_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uwc.models import judges as module

    path = classifier(tmp_path / "c", ("entailment", "contradiction"), (0.0, 1.0))
    loaded = []
    load = module.load_inference
    monkeypatch.setattr(module, "load_inference", lambda *args, **options: loaded.append(1) or load(*args, **options))
    both = Judges.load({"entailment": path, "contradiction": str(path)}, device="cpu")
    assert both.entailment is not None and both.contradiction is not None and loaded == [1]
    assert both.entailment(["a"], ["b"]).tolist() == [False] and both.contradiction(["a"], ["b"]).tolist() == [True]
