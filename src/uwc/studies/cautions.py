"""What a reader of a study should know of the questions and models that were given: too few subjects, repetitions."""

from collections.abc import Mapping, Sequence

from uwc.data.example import Example, asked_in_both, repeated
from uwc.metrics.stats import cluster_codes
from uwc.studies.config import ORIGINAL, RETRAINED
from uwc.studies.plan import SET_LABELS, Plan, Step, scored_sets

FEW_SUBJECTS = 5
"""With fewer independent groups than this, intervals hold the truth less often than they say."""


def cautions(plan: Plan) -> list[str]:
    """Sentences on the questions and models of a study, none where all is well."""
    sets = {name: examples for name, examples in scored_sets(plan.benchmark).items() if name in _asked(plan)}
    return [*_on_subjects(sets, several=len(plan.config.unlearn.runs) > 1), *_on_questions(sets), *_on_models(plan)]


def _asked(plan: Plan) -> tuple[str, ...]:
    """The sets that a conclusion rests on."""
    return ("forget", *(plan.config.calibration.sets if plan.config.calibrate else ()))


def _on_subjects(sets: Mapping[str, Sequence[Example]], *, several: bool) -> list[str]:
    told = []
    for name, examples in sets.items():
        label, count = SET_LABELS.get(name, name), int(cluster_codes([e.subject for e in examples]).max()) + 1
        if count == 1:
            told.append(f"All {label} questions are about one subject, so that nothing shows how sure a score is.")
        elif count < FEW_SUBJECTS:
            unsure = ", and no two models can be told apart by them" if several else ""
            told.append(
                f"The {label} questions are about {count} subjects only: intervals from fewer than {FEW_SUBJECTS} hold "
                f"the truth less often than 95%{unsure}; take questions about more subjects."
            )
    silent = [SET_LABELS.get(name, name) for name, examples in sets.items() if not any(e.subject for e in examples)]
    if silent:
        told.append(
            f"No subject is named for the {' and '.join(silent)} questions, so each counts as independent of the "
            "others. If several are about one person or thing, name it in a column 'subject': else intervals are too "
            "narrow."
        )
    return told


def _on_questions(sets: Mapping[str, Sequence[Example]]) -> list[str]:
    told = [
        f"{count} of the {SET_LABELS.get(name, name)} questions repeat another one with its answer, and count twice."
        for name, examples in sets.items()
        if (count := repeated(examples))
    ]
    for name, examples in sets.items():
        if name != "forget" and (both := asked_in_both(sets["forget"], examples)):
            told.append(
                f"{len(both)} of the forget questions {'is' if len(both) == 1 else 'are'} asked in the "
                f"{SET_LABELS.get(name, name)} set too, with another answer ({both[0][:60]!r}); remove them from one."
            )
    return told


def _on_models(plan: Plan) -> list[str]:
    names = {"base model": ORIGINAL, "retrained model": RETRAINED}
    given = {names.get(s.name, s.name.removeprefix("checkpoint ")): s for s in plan.steps if s.kind == "checkpoint"}
    same: dict[tuple[str, ...], list[str]] = {}
    for name, step in given.items():
        same.setdefault(_weights(step), []).append(name)
    return [_on_same(found) for found in same.values() if len(found) > 1]


def _weights(step: Step) -> tuple[str, ...]:
    """What tells a given model's weights: hashes of their files, with those of its base, or the hub's revision."""
    files: Mapping[str, str] = step.settings["files"]
    base = _weights(step.inputs["base"]) if "base" in step.inputs else ()
    return (*base, *sorted(value for name, value in files.items() if name.endswith(".safetensors") or "hub" in files))


def _on_same(names: Sequence[str]) -> str:
    if names[0] == ORIGINAL:
        return f"{' and '.join(names[1:])}: the weights are those of the original, so nothing is unlearned in them."
    return f"{' and '.join(names)} have the same weights: they are one model under several names."
