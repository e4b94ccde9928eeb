"""Which examples meet in which step."""

from collections import Counter

from uwc.training.data import plan_steps


def plan(epochs: float = 2.0, seed: int = 0, **changes):  # type: ignore[no-untyped-def]
    sizes = {"partners": 50, "pools": {"refusals": 3}, "batch_size": 4} | changes
    return plan_steps([5 + i % 7 for i in range(10)], epochs=epochs, seed=seed, **sizes)


def test_every_epoch_visits_every_anchor_once_in_a_new_order() -> None:
    steps = plan()
    assert [len(s.anchors) for s in steps].count(4) == 4
    first, second = [a for s in steps[:3] for a in s.anchors], [a for s in steps[3:] for a in s.anchors]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_partners_and_refusals_are_drawn_uniformly_for_each_anchor() -> None:
    steps = plan_steps([9] * 100, partners=4, pools={"refusals": 2}, batch_size=10, epochs=20, seed=1)
    partners = Counter(p for s in steps for p in s.partners)
    assert set(partners) == set(range(4)) and min(partners.values()) > 400
    assert all(len(s.partners) == len(s.draws["refusals"]) == len(s.anchors) for s in steps)
    pairs = {(a, p) for s in steps for a, p in zip(s.anchors, s.partners, strict=True)}
    assert len(pairs) > 350, "a pair is not fixed over the epochs"


def test_a_fraction_of_an_epoch_ends_within_it() -> None:
    assert len(plan(epochs=1.0)) == 3
    assert len(plan(epochs=0.5)) == 2
    assert len(plan(epochs=0.01)) == 1
    assert plan(epochs=0.5) == plan(epochs=1.0)[:2]


def test_like_lengths_share_a_batch() -> None:
    lengths = [10] * 32 + [100] * 32
    steps = plan_steps(lengths, partners=0, pools={}, batch_size=8, epochs=1, seed=0)
    mixed = sum(len({lengths[a] for a in s.anchors}) > 1 for s in steps)
    assert mixed <= 2, "one batch at most in each run of four holds both lengths"


def test_the_seed_decides() -> None:
    assert plan(seed=3) == plan(seed=3) != plan(seed=4)
