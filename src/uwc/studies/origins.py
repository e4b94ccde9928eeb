"""The provenance of a study's results: key, settings, data, weights and environment of every step."""

from pathlib import Path
from typing import Any

from uwc.io import digest, file_digest
from uwc.results import Provenance, StepOrigin
from uwc.studies.plan import Plan
from uwc.studies.step import STORE_VERSION, Step
from uwc.studies.steps import Calibrate, Checkpoint
from uwc.studies.store import Store


def origins(plan: Plan, store: Store) -> Provenance:
    """The provenance of a study's results, from the manifests of its steps.

    Scores name their step, and steps their inputs, down to checkpoints and data files. The mixture of a calibration is
    not stored; its hash is made of alpha and of the weights of the step's two inputs.
    """
    environments: list[dict[str, str]] = []
    steps = {}
    for step in plan.steps:
        manifest = store.manifest(step)
        found = None if manifest is None else manifest.environment
        if found is not None and found not in environments:
            environments.append(found)
        steps[step.id] = StepOrigin(
            kind=step.kind,
            key=step.key,
            settings=digest(step.settings),
            data=dict(step.fingerprints),
            code={} if step.not_cached else step.code,
            inputs={role: s.id for role, s in step.inputs.items()},
            path=step.path if isinstance(step, Checkpoint) else None,
            mixture=_mixture(step, store),
            files=_files(step, store),
            environment=None if found is None else environments.index(found),
        )
    return Provenance(
        store_version=STORE_VERSION,
        data_files={name: file_digest(Path(name).expanduser()) for name in plan.benchmark.files},
        environments=tuple(environments),
        steps=steps,
    )


def _mixture(step: Step, store: Store) -> str | None:
    """The hash of a calibrated mixture: of alpha and of the weights of both models."""
    if not isinstance(step, Calibrate) or store.manifest(step) is None:
        return None
    parents = {role: _parent(of, store) for role, of in step.inputs.items()}
    return digest({"alpha": store.outcome(step).alpha, **parents})


def _parent(step: Step, store: Store) -> list[Any]:
    """The files of a model; for an adapter those of its base too."""
    bases = step.inputs.values() if isinstance(step, Checkpoint) else ()
    return [_files(step, store), *(_parent(base, store) for base in bases)]


def _files(step: Step, store: Store) -> dict[str, str]:
    if isinstance(step, Checkpoint):
        return dict(step.files)
    manifest = store.manifest(step)
    return {} if manifest is None else manifest.files
