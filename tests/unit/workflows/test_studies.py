"""A study is run by one process, and its results are not those of another."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.results_factory import changed, study_results
from tests.helpers.small_study import STUDY

from uwc.errors import UserError
from uwc.paths import path_tag
from uwc.studies.plan import make_plan
from uwc.studies.store import Store
from uwc.workflows import studies
from uwc.workflows.studies import run_plan, run_study


def test_a_study_is_not_run_by_several_processes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a study runs in one process"):
        run_study("quickstart", runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_results_of_another_study_of_that_name_are_replaced_on_demand_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begin(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr(studies, "run_steps", begin)
    plan, results = make_plan(STUDY), study_results()

    def run(*, overwrite: bool = False, **recorded: object) -> None:
        config = {**STUDY.model_dump(mode="json"), **recorded}
        changed(results, study=changed(results.study, config=config)).save(tmp_path)
        run_plan(plan, Store(tmp_path / "store"), tmp_path, overwrite=overwrite)

    with pytest.raises(Begun):
        run(seed=1, finetune={}, benchmark={**STUDY.model_dump(mode="json")["benchmark"], "settings": {}})
    for what, value in {"benchmark": {"name": "tofu"}, "model": {"path": "/there/llama"}}.items():
        with pytest.raises(UserError, match=f"another {what}, .*--overwrite"):
            run(**{what: value})
        with pytest.raises(Begun):
            run(**{what: value}, overwrite=True)
    given = plan.config.model.model_copy(update={"path": str(tmp_path / "one" / "model")})
    plan = replace(plan, config=plan.config.model_copy(update={"model": given}))
    for other, begun in {"one": True, "two": False}.items():
        path = str(tmp_path / other / "model")
        config = {**STUDY.model_dump(mode="json"), "model": {"path": "model"}}
        recorded = changed(results, study=changed(results.study, config=config), paths={"model": path_tag(path)})
        recorded.save(tmp_path)
        with pytest.raises(Begun if begun else UserError):
            run_plan(plan, Store(tmp_path / "store"), tmp_path)
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(Begun):
        run_plan(plan, Store(tmp_path / "store"), tmp_path)
