"""Two results of the same study, number by number: equal, within a tolerance, or different."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from uwc import __version__
from uwc.results import Diff, NumberDiff, Part, Provenance, StepOrigin, StudyResults, TextDiff, Warning

RTOL = 1e-5
SMALLEST = 1e-12
"""Absolute difference up to which two numbers are within the tolerance."""

_NOT_COMPUTED = {
    "schema_version",
    "uwc_version",
    "study",
    "provenance",
    "metrics",
    "warnings",
    "retention",
    "settings",
    "tricks",
}
_NOT_WORDS = {("ranking",), ("provenance", "environments"), ("provenance", "data_files")}
_PARTS = {"scores": "as delivered", "calibrated_scores": "calibrated"}

Path = tuple[str, ...]


def diff(first: StudyResults, second: StudyResults, *, rtol: float = RTOL, names: tuple[str, str] = ("", "")) -> Diff:
    """Compare all numbers of two results; ranks are numbers, and null is a missing one.

    Args:
        first: the results of a study.
        second: other results of the same study.
        rtol: the relative difference ``|a - b| / max(|a|, |b|)`` up to which two numbers count as within it.
        names: the names of the two.
    """
    one, other = dict(_numbers(first)), dict(_numbers(second))
    numbers = []
    for path in dict.fromkeys([*one, *other]):
        a, b = one.get(path), other.get(path)
        if a is not None or b is not None:
            numbers.append(
                NumberDiff(path=".".join(path), group=_group(path), first=a, second=b, verdict=_verdict(a, b, rtol))
            )
    then, now = first.provenance, second.provenance
    return Diff(
        uwc_version=__version__,
        first=names[0],
        second=names[1],
        rtol=rtol,
        numbers=tuple(numbers),
        texts=tuple(_text_changes(first, second)),
        models=tuple(_model_changes(then, now)),
        environment=tuple(_environment_changes(then, now)),
        warnings=tuple(_version_warnings(first, second)),
    )


def _version_warnings(first: StudyResults, second: StudyResults) -> Iterator[Warning]:
    """Warnings for results by different versions of uwc."""
    one, other = first.study.uwc_version, second.study.uwc_version
    if one != other:
        yield Warning(code="other_version", text=f"the first was made by uwc {one}, the second by uwc {other}")
    then, now = first.provenance.store_version, second.provenance.store_version
    if then != now:
        yield Warning(
            code="other_store_version",
            text=f"the versions compute some steps differently (store version {then} and {now}); CHANGELOG.md says "
            "which numbers changed",
        )


def _environment_changes(first: Provenance, second: Provenance) -> Iterator[TextDiff]:
    for what in dict.fromkeys(key for e in (*first.environments, *second.environments) for key in e):
        then, now = (
            ", ".join(dict.fromkeys(e.get(what, "not recorded") for e in p.environments)) for p in (first, second)
        )
        if then != now:
            yield TextDiff(path=what, first=then, second=now)


def _text_changes(first: StudyResults, second: StudyResults) -> Iterator[TextDiff]:
    """Words and hashes that differ; none if different versions of the code made the two. Weights and mixtures are
    compared by `_model_changes`, machines by `_environment_changes`."""
    provenances = first.provenance, second.provenance
    codes = {e.get("code") for p in provenances for e in p.environments}
    if len(codes) > 1 or provenances[0].store_version != provenances[1].store_version:
        return
    then, now = dict(_texts(first)), dict(_texts(second))
    for path in dict.fromkeys([*then, *now]):
        if then.get(path) != now.get(path):
            yield TextDiff(path=".".join(path), first=then.get(path, "nothing"), second=now.get(path, "nothing"))


def _model_changes(first: Provenance, second: Provenance) -> Iterator[str]:
    for name, step in first.steps.items():
        if _weights(step) != _weights(second.steps.get(name)):
            yield name


def _weights(step: StepOrigin | None) -> dict[str, str]:
    files = {} if step is None else step.files
    return {name: value for name, value in files.items() if name.endswith(".safetensors")}


def _numbers(value: Any, path: Path = ()) -> Iterator[tuple[Path, float | None]]:
    if isinstance(value, bool | int | float):
        yield path, None if value != value else float(value)
    elif isinstance(value, tuple) and value and isinstance(value[0], str):
        yield from (((*path, item), place + 1) for place, item in enumerate(value))
    else:
        for name, inner in _inside(value):
            if name not in _NOT_COMPUTED:
                yield from _numbers(inner, (*path, name))


def _texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    for name, inner in _inside(value):
        if (*path, name) not in _NOT_WORDS and name not in ("files", "mixture"):
            yield from _texts(inner, (*path, name))


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a result by name; list items by their identity or, if they have none, by index."""
    if isinstance(value, Part):
        for name in type(value).model_fields:
            yield name, getattr(value, name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
    elif isinstance(value, tuple):
        for place, inner in enumerate(value):
            yield _name(inner, place), inner


def _name(item: Any, place: int) -> str:
    if not isinstance(item, Part) or not item.IDENTITY:
        return str(place)
    values = [getattr(item, field) for field in item.IDENTITY]
    return "/".join(v.label if isinstance(v, Part) and hasattr(v, "label") else str(v) for v in values)


def _group(path: Path) -> str:
    if path[0] == "references":
        return path[1]
    if path[0] == "unlearned":
        return f"{path[1]}, {_PARTS.get(path[2], path[2])}"
    return path[0].replace("_", " ")


def _verdict(a: float | None, b: float | None, rtol: float) -> Literal["equal", "within", "different"]:
    if a is None or b is None:
        return "different"
    if a == b:
        return "equal"
    within = abs(a - b) <= SMALLEST or abs(a - b) / max(abs(a), abs(b)) <= rtol
    return "within" if within else "different"
