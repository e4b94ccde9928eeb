"""The time left, from the steps that are done."""

from uwc.studies.run import seconds_left, time_left


def test_each_missing_step_costs_the_mean_of_its_kind() -> None:
    finished = [("score", 10.0), ("score", 20.0), ("calibrate", 100.0)]
    assert seconds_left(finished, ["score", "score", "calibrate"]) == (130.0, True)
    assert time_left(finished, ["score", "calibrate"]) == "2 steps left, about 1 min 55 s"


def test_a_kind_that_was_never_seen_makes_it_a_lower_bound() -> None:
    assert seconds_left([("score", 10.0)], ["score", "attack"]) == (10.0, False)
    assert time_left([("score", 10.0)], ["score", "attack"]) == "2 steps left, more than 10.0 s"


def test_workers_share_what_is_left() -> None:
    assert time_left([("score", 10.0)], ["score"] * 4, workers=2) == "4 steps left, about 20.0 s"
    assert time_left([("score", 10.0)], ["score"], workers=2) == "1 step left, about 10.0 s"


def test_nothing_known_and_nothing_left() -> None:
    assert time_left([], ["score"]) == "1 step left"
    assert time_left([("score", 10.0)], []) == ""
