"""The judges of generated answers in results: what they are, and whether they were checked against labels."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc.errors import ConfigError
from uwc.io import digest, expanded
from uwc.metrics.evaluate import Scoring
from uwc.metrics.registry import JUDGES, inputs_of, metrics
from uwc.metrics.semantics import CHECKED, CLEAN, clean_label
from uwc.results import JudgeInfo, JudgeResults, Warning
from uwc.studies.store import checkpoint_fingerprint

PROMPT = "prompt"
"""The setting of a metric of verdicts that is the prompt of its judge."""


def used_judges(given: Mapping[str, Any], scoring: Scoring) -> dict[str, Any]:
    """The judges that the metrics ask, with the label of clean texts of a classifier.

    Args:
        given: name of a judge -> its path or function, and maybe the label, as `Judges.load` takes them.
        scoring: the metrics.
    """
    judging = {need for metric in _judged(scoring) for need in inputs_of(metric)}
    used = {name: judge for name, judge in given.items() if name in judging and name in JUDGES}
    if isinstance(used.get("classifier"), str | Path):
        used[CLEAN] = clean_label(given)
    return used


def judge_fingerprints(used: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Judge -> the hashes of its files, and for a classifier the label of clean texts; of paths only.

    Raises:
        ModelError: there is no such model, or its configuration has names of labels without the one that is needed.
    """
    found: dict[str, dict[str, str]] = {}
    for name, path in used.items():
        if name == CLEAN or not isinstance(path, str | Path):
            continue
        found[name] = checkpoint_fingerprint(str(path))
        label = {"entailment": name, "contradiction": name, "classifier": used.get(CLEAN)}.get(name)
        if label is not None:
            from uwc.models.judges import require_label  # heavy: only for judges

            require_label(str(path), label, of=name)
        if name == "classifier":
            found[name][CLEAN] = str(label)
    return found


def judge_infos(
    given: Mapping[str, Any], scoring: Scoring, fingerprints: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[JudgeInfo, ...]:
    """The description of the judges that the metrics ask, with their checks, in results.

    Args:
        given: judges and options, as `Judges.load` takes them.
        scoring: the metrics.
        fingerprints: the result of `judge_fingerprints`, if it is known.

    Raises:
        UserError: a check cannot be read, or is of another judge or prompt, or of no metric that is measured.
    """
    used = used_judges(given, scoring)
    fingerprints = judge_fingerprints(used) if fingerprints is None else fingerprints
    asked: dict[str, dict[str, str]] = {name: {} for name in used}
    for metric in _judged(scoring):
        settings = metrics.check(metric, scoring.settings.get(metric, {}))
        for need in inputs_of(metric):
            if need in used and PROMPT in settings:
                asked[need][metric] = prompt_hash(settings[PROMPT])
    infos = [
        JudgeInfo(
            judge=name,
            model=str(judge)
            if isinstance(judge, str | Path)
            else str(getattr(judge, "__name__", type(judge).__name__)),
            sha256=digest(dict(fingerprints[name])) if name in fingerprints else "",
            clean=str(used.get(CLEAN, "")) if name == "classifier" else "",
            prompts=asked[name],
        )
        for name, judge in used.items()
        if name in JUDGES
    ]
    for check in _checks(given.get(CHECKED)):
        read = check if isinstance(check, JudgeResults) else JudgeResults.load(expanded(check))
        _add(infos, read, "" if isinstance(check, JudgeResults) else str(check))
    return tuple(infos)


def _checks(given: Any) -> Sequence[JudgeResults | str | Path]:
    """One or several checks as a list."""
    if given is None:
        return ()
    return (given,) if isinstance(given, JudgeResults | str | Path) else tuple(given)


def prompt_hash(prompt: str) -> str:
    """SHA-256 (hex) of a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def unchecked(infos: Sequence[JudgeInfo]) -> list[Warning]:
    """The warning on each language model whose verdicts were not checked against labels."""
    return [Warning(code="judge_not_checked", text=text) for info in infos for text in _unchecked(info)]


def _unchecked(info: JudgeInfo) -> Iterator[str]:
    lacking = [metric for metric in info.prompts if metric not in {check.metric for check in info.checks}]
    if lacking:
        yield (
            f"The verdicts of {info.model} ({', '.join(lacking)}) were not checked against labels by people, so that "
            "it is not known how often they are right; measure it with uwc judge, and name its judge.json in "
            "score.judges.checked."
        )


def _judged(scoring: Scoring) -> list[str]:
    """The judged metrics of all sets."""
    return list(dict.fromkeys(metric for of_set in scoring.given.sets for metric in scoring.judged(of_set)))


def _add(infos: list[JudgeInfo], found: JudgeResults, source: str) -> None:
    """Add a check to the judge that it is of. Raises ConfigError if there is none."""
    where = f"score.judges.checked: {source or 'a check'}"
    check = found.check
    placed = False
    for theirs in found.judges:
        for i, info in enumerate(infos):
            if info.judge != theirs.judge:
                continue
            wrong = _other(info, theirs, check.metric, check.prompt_sha256)
            if wrong:
                raise ConfigError(f"{where} is of {wrong}; run uwc judge again with this one")
            infos[i] = info.model_copy(update={"checks": (*info.checks, check)})
            placed = True
    if not placed:
        raise ConfigError(f"{where} is of {check.metric}, and no metric here uses its judge; remove it")


def _other(info: JudgeInfo, theirs: JudgeInfo, metric: str, prompt: str) -> str:
    """In what a check differs from the judge that is used; empty if in nothing."""
    tests: dict[str, Callable[[], bool]] = {
        f"a {info.judge} with other files ({theirs.model})": lambda: info.sha256 != theirs.sha256 or not info.sha256,
        f"another label of clean texts ({theirs.clean!r})": lambda: info.clean != theirs.clean,
        f"{metric} with another prompt": lambda: info.prompts.get(metric, prompt) != prompt,
        f"{metric}, which is not measured here": lambda: bool(prompt) and metric not in info.prompts,
    }
    return next((words for words, differs in tests.items() if differs()), "")
