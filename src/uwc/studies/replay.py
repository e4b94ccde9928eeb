"""Two results of the same study, number by number: equal, within a tolerance, or different."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["equal", "within", "different"]
VERDICTS: tuple[Verdict, ...] = ("equal", "within", "different")

TOLERANCE = 1e-5
SMALLEST = 1e-12
"""A difference up to this is rounding, whatever the numbers."""

_NOT_COMPUTED = {"schema", "study", "provenance", "metrics", "notes", "settings", "tricks", "retention"}
_NOT_WORDS = {("ranking",), ("provenance", "environments"), ("provenance", "data_files")}
_PARTS = {
    "before": "before calibration", "calibration": "calibration", "after": "calibrated", "at_tau": "at tau",
    "frontier": "tau curve",
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A number as it is recorded and as it was recomputed.

    Attributes:
        path: where it is in results.json; items of a list by their name, or else by their place.
        group: what it is about.
        recorded: None where the summary has no number.
        recomputed: likewise.
        verdict: "equal" to the last bit, "within" the tolerance, or "different".
    """

    path: str
    group: str
    recorded: float | None
    recomputed: float | None
    verdict: Verdict

    @property
    def difference(self) -> float:
        """``|a - b| / max(|a|, |b|)``; infinite where one of the two is missing."""
        return _relative(self.recorded, self.recomputed)


def compare_results(
    recorded: Mapping[str, Any], recomputed: Mapping[str, Any], *, tolerance: float = TOLERANCE
) -> list[Compared]:
    """Every number of either, side by side; a rank counts as a number, and null as none.

    Args:
        recorded: the content of a results.json.
        recomputed: the content of another.
        tolerance: the relative difference ``|a - b| / max(|a|, |b|)`` up to which two numbers count as within it.
    """
    first, second = dict(_numbers(recorded)), dict(_numbers(recomputed))
    compared = []
    for path in dict.fromkeys([*first, *second]):
        a, b = first.get(path), second.get(path)
        if a is not None or b is not None:
            compared.append(Compared(".".join(path), _group(path), a, b, _verdict(a, b, tolerance)))
    return compared


def group_counts(compared: list[Compared]) -> list[dict[str, Any]]:
    """For each group how many numbers came out how, and the largest relative difference (None: one was missing)."""
    rows = []
    for group in dict.fromkeys(c.group for c in compared):
        members = [c for c in compared if c.group == group]
        largest = max(c.difference for c in members)
        counts: dict[str, Any] = {verdict: sum(c.verdict == verdict for c in members) for verdict in VERDICTS}
        rows.append({"group": group, **counts, "largest difference": None if largest == float("inf") else largest})
    return rows


def environment_changes(recorded: list[Mapping[str, str]], now: list[Mapping[str, str]]) -> list[dict[str, str]]:
    """What differs between the machines and libraries of two results: what, recorded, now."""
    rows = []
    for what in dict.fromkeys(key for environment in (*recorded, *now) for key in environment):
        then, today = (
            ", ".join(dict.fromkeys(e.get(what, "not recorded") for e in environments))
            for environments in (recorded, now)
        )
        if then != today:
            rows.append({"what": what, "recorded": then, "now": today})
    return rows


def record_changes(recorded: Mapping[str, Any], recomputed: Mapping[str, Any]) -> list[dict[str, str]]:
    """What two results of the same code say otherwise in words and hashes: what, recorded, now.

    None where another version of the code made one of them, which may word or key its results otherwise. Weights and
    mixtures are left to `model_changes`, machines to `environment_changes`.
    """
    first, second = (r["provenance"] for r in (recorded, recomputed))
    codes = {e.get("code") for p in (first, second) for e in p["environments"]}
    if len(codes) > 1 or first["schema"] != second["schema"]:
        return []
    then, now = dict(_texts(recorded)), dict(_texts(recomputed))
    return [
        {"what": ".".join(path), "recorded": then.get(path, "nothing"), "now": now.get(path, "nothing")}
        for path in dict.fromkeys([*then, *now])
        if then.get(path) != now.get(path)
    ]


def model_changes(recorded: Mapping[str, Any], recomputed: Mapping[str, Any]) -> list[str]:
    """The steps that made other weights than the recorded ones."""
    return [name for name, step in recorded.items() if _weights(step) != _weights(recomputed.get(name, {"files": {}}))]


def _weights(step: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in step["files"].items() if name.endswith(".safetensors")}


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float | None]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NOT_COMPUTED:
                yield from _numbers(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            if isinstance(inner, str):
                yield (*path, inner), place + 1
            else:
                name = inner.get("name", place) if isinstance(inner, Mapping) else place
                yield from _numbers(inner, (*path, str(name)))
    elif value is None or isinstance(value, int | float):
        yield path, value


def _texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if (*path, key) not in _NOT_WORDS and key not in ("files", "mixture"):
                yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, (*path, str(place)))
    elif isinstance(value, str):
        yield path, value


def _group(path: tuple[str, ...]) -> str:
    if path[0] == "models":
        return path[1]
    if path[0] == "unlearned":
        return f"{path[1]}, {_PARTS.get(path[2], path[2])}"
    return path[0].replace("_", " ")


def _verdict(a: float | None, b: float | None, tolerance: float) -> Verdict:
    if a is None or b is None:
        return "different"
    if a == b:
        return "equal"
    return "within" if abs(a - b) <= SMALLEST or _relative(a, b) <= tolerance else "different"


def _relative(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return float("inf")
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))
