"""How long a study still takes, from the steps that are done."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from uwc.progress import duration


def seconds_left(finished: Iterable[tuple[str, float]], missing: Sequence[str]) -> tuple[float, bool]:
    """For each missing step the mean time of the finished ones of its kind, added up.

    Args:
        finished: the kind of each finished step and the seconds that it took, here or in an earlier run.
        missing: the kinds of the steps still to run.

    Returns:
        The seconds, and whether they cover every missing step: a kind of which none is finished has no time yet.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in finished:
        spent[kind].append(seconds)
    known = [sum(spent[kind]) / len(spent[kind]) for kind in missing if spent[kind]]
    return sum(known), len(known) == len(missing)


def time_left(finished: Iterable[tuple[str, float]], missing: Sequence[str]) -> str:
    """The steps and the time left in words, such as ``3 steps left, about 40.0 s``; empty where nothing is left."""
    if not missing:
        return ""
    seconds, complete = seconds_left(finished, missing)
    steps = f"{len(missing)} {'step' if len(missing) == 1 else 'steps'} left"
    return f"{steps}, {'about' if complete else 'more than'} {duration(seconds)}" if seconds else steps
