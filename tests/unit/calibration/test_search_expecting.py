"""What examples are expected to score at other mixtures, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import people
from tests.helpers.scores_by_hand import scores
from tests.helpers.tiles import statistics

from uwc.calibration.search import Expectation, Path
from uwc.data.batches import collate
from uwc.metrics.registry import metrics
from uwc.models.head import answer_logits
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TOKEN_COLUMNS, TokenScores

NAN = float("nan")


def lines(alpha: float, known: dict[float, list[float]], draw: int = 0) -> list[float]:
    numbers = Path({a: np.array([row]) for a, row in known.items()}, alpha).numbers(draw)
    return [float(n) for n in numbers[0]]


def test_a_number_is_on_the_line_between_its_two_nearest_mixtures() -> None:
    """On the scale alpha^1.5: a quarter of alpha is an eighth of the way, and 0.64 is 0.512 of it."""
    known = {0.0: [4.0], 1.0: [0.0]}
    assert lines(0.25, known) == [3.5]
    assert lines(0.64, known) == pytest.approx([4 - 4 * 0.512])
    known[0.25] = [2.0]
    assert lines(0.25, known) == [2.0]
    assert lines(0.64, known) == pytest.approx([2 - 2 * (0.512 - 0.125) / 0.875])


def test_beyond_the_last_mixture_a_number_goes_on_as_it_went() -> None:
    """From 0 to 0.25 it lost 0.5 in an eighth of the way: 4 in all of it."""
    assert lines(1.0, {0.0: [4.0], 0.25: [3.5]}) == pytest.approx([0.0])


def test_what_is_known_at_0_only_moves_like_one_of_the_others() -> None:
    """The first lost 4 and the second 1; the third and fourth move like them, in turn, and at the next draw turned
    around. The fifth, known at fewer mixtures than the first two, is nobody's model."""
    known = {0.0: [4.0, 3.0, 2.0, 1.0, 9.0], 0.5: [2.0, 2.5, NAN, NAN, NAN], 1.0: [0.0, 2.0, NAN, NAN, 0.0]}
    assert lines(1.0, known) == [0.0, 2.0, -2.0, 0.0, 0.0]
    assert lines(1.0, known, draw=1) == [0.0, 2.0, 1.0, -3.0, 0.0]
    assert lines(0.5, {0.0: [4.0, 3.0]}) == [4.0, 3.0]


def led(leads: list[list[float]]) -> TokenScores:
    """Token scores with these leads; log-probabilities are those of a choice between two tokens."""
    flat = np.array([x for row in leads for x in row], np.float32)
    rows = [[float(-np.log1p(np.exp(-x))) for x in row] for row in leads]
    return replace(scores(rows, greedy=["".join("01"[int(x > 0)] for x in row) for row in leads]), margin=flat)


def test_extraction_strength_breaks_where_the_first_token_loses_its_lead() -> None:
    """The first of four tokens leads by 1 and loses 8 in all: it falls behind at alpha^1.5 = 1/8, at alpha = 1/4."""
    entry = metrics.get("extraction_strength")
    original, unlearned = led([[1, 1, 1, 8], [2, 2]]), led([[-7, 1, 1, 7], [2, -2]])
    expectation = Expectation(entry, entry.function(original), original)
    assert expectation.values(0.7).tolist() == [1.0, 1.0]
    expectation.add(1.0, np.arange(2), entry.function(unlearned), unlearned)
    assert expectation.values(0.24).tolist() == [1.0, 1.0]
    assert expectation.values(0.26).tolist() == [0.75, 1.0]
    assert expectation.values(0.64).tolist() == [0.75, 0.0]  # the last token leads by 2 and loses 4: behind at 0.63


def test_other_metrics_are_followed_by_their_values() -> None:
    expectation = Expectation(metrics.get("rouge_l"), np.array([0.8, 0.6]), None)
    expectation.add(1.0, np.array([1]), np.array([0.2]), None)
    assert not expectation.by_token
    assert expectation.values(0.25) == pytest.approx([0.75, 0.55])
    assert expectation.values(1.0) == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("width", [1, 3, 7, 100])
def test_leads_from_tiles_equal_those_of_whole_logits(width: int) -> None:
    """By how much the target's logit exceeds the greatest other, by taking it out of each row and looking again."""
    torch.manual_seed(0)
    logits, targets = torch.randn(20, 10), torch.randint(10, (20,))
    logits[3, :] = 1.0
    logits[4, targets[4]] = 9.0
    others = [torch.cat([row[:t], row[t + 1 :]]).max() for row, t in zip(logits, targets, strict=True)]
    wanted = logits[torch.arange(20), targets] - torch.stack(others)
    assert wanted[3] == 0 and wanted[4] > 0
    found = statistics(logits, targets, width=width, margins=True)
    assert torch.allclose(found["margin"], wanted, atol=1e-5)
    plain = statistics(logits, targets, width=width)
    assert "margin" not in plain and all(torch.equal(found[n], c) or c.isnan().all() for n, c in plain.items())


def test_leads_are_scored_on_request(knowing: Model) -> None:
    examples = people(2)
    found, plain = score_tokens(knowing, examples, margins=True), score_tokens(knowing, examples)
    assert plain.margin is None and found.margin is not None
    assert ((found.margin > 0) == found.greedy).all()
    assert all(np.array_equal(getattr(found, n), getattr(plain, n), equal_nan=True) for n in TOKEN_COLUMNS)
    batch = collate(knowing.encode(examples[:1]), device=knowing.device)
    logits = answer_logits(knowing.model, batch).detach()
    second = logits.scatter(1, batch.targets[:, None], -1e9).amax(dim=1)
    wanted = logits.gather(1, batch.targets[:, None])[:, 0] - second
    assert found.select([0]).margin == pytest.approx(wanted.numpy(), abs=1e-4)
