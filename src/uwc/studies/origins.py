"""Where each number of a study's results comes from: for every step its key, settings, data, weights and machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uwc.io import digest, file_digest
from uwc.studies.plan import SCHEMA, Plan, Step
from uwc.studies.store import Store


def origins(plan: Plan, store: Store) -> dict[str, Any]:
    """The provenance of a study's results, from the manifests of its steps: the same bits each time it is gathered.

    A record of scores names its step; the step names its inputs, and so on to the checkpoints and data files. A mixture
    scored by a calibration is not stored: its weights follow from those of the step's two inputs and from alpha, of
    which its hash is made.

    Returns:
        Plain data: schema (of the steps), data_files (path as the user named it -> SHA-256), environments (libraries,
        machine, device and threads, each one once), and steps: name -> kind, key, settings (SHA-256), data
        (fingerprints), inputs (role -> step), files (of the model that the step made or names -> SHA-256),
        environment (its place in environments; null for a checkpoint or a step that was skipped), the path of a
        checkpoint, and of a calibration the mixture (SHA-256 of alpha and of both parents' files).
    """
    environments: list[dict[str, str]] = []
    steps = {}
    for step in plan.steps:
        manifest = store.manifest(step.kind, step.key) or {}
        found = manifest.get("environment")
        if found is not None and found not in environments:
            environments.append(found)
        steps[step.name] = {
            **identity(step),
            **_mixture(step, manifest, store),
            "files": _files(step, manifest),
            "environment": None if found is None else environments.index(found),
        }
    return {
        "schema": SCHEMA,
        "data_files": {name: file_digest(Path(name).expanduser()) for name in plan.benchmark.files},
        "environments": environments,
        "steps": steps,
    }


def _mixture(step: Step, manifest: Mapping[str, Any], store: Store) -> dict[str, str]:
    """The hash of the mixture that a calibration found: of alpha and of the weights it is mixed from."""
    if step.kind != "calibrate" or not manifest:
        return {}
    parents = {role: _parent(of, store) for role, of in step.inputs.items()}
    return {"mixture": digest({"alpha": manifest["outcome"]["alpha"], **parents})}


def _parent(step: Step, store: Store) -> list[Any]:
    """The files of a model; for an adapter those of its base too."""
    own = _files(step, store.manifest(step.kind, step.key) or {})
    bases = step.inputs.values() if step.kind == "checkpoint" else ()
    return [dict(own), *(_parent(base, store) for base in bases)]


def _files(step: Step, manifest: Mapping[str, Any]) -> Any:
    return step.settings["files"] if step.kind == "checkpoint" else manifest.get("files", {})


def identity(step: Step) -> dict[str, Any]:
    """What a step is, without what came of it."""
    settings = dict(step.settings)
    named = {"path": settings.pop("path")} if step.kind == "checkpoint" else {}
    return named | {
        "kind": step.kind, "key": step.key, "settings": digest(settings), "data": step.data,
        "inputs": {role: s.name for role, s in step.inputs.items()},
    }  # fmt: skip
