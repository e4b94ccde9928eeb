"""Every block of the tutorials runs, in the folder that their first page makes from a small study."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import nbformat
import pytest
import yaml
from tests.helpers.small_study import STUDY
from typer.testing import CliRunner

from uwc.cli.main import app

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
PAGES = ["first-score", "own-checkpoints", "cluster", "sign-off-in-ci"]
STATUS = {"sign-off-in-ci": (0, 5, 6)}
"""Page -> exit statuses that it names, where they are not 0 only."""
JOBS = "study run my-study.yaml --output-dir shared/"
"""The command before which the jobs of SLURM computed the steps; here they are those of the run on one machine."""
QUICKSTART = STUDY.model_dump(mode="json", exclude_unset=True) | {
    "name": "quickstart",
    "retrained": True,
    "score": {"metrics": ["extraction_strength"], "max_new_tokens": 4},
}
QUICKSTART["unlearn"]["runs"] = [{"method": "npo"}]


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a page."""
    return re.findall(
        r"^```(\w+)\n(.*?)^```$", (FOLDER / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the tutorials, made by the code of the first page."""
    folder = tmp_path_factory.mktemp("tutorials")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(QUICKSTART), encoding="utf-8")
    [code] = [text for language, text in blocks("index") if language == "python"]
    assert code.count('"quickstart"') == 2
    with chdir(folder):
        exec(code.replace('"quickstart"', '"tiny.yaml"'), {"__name__": "tutorial"})
        yield folder


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, folder: Path) -> None:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    named: dict[str, object] = {"__name__": "tutorial"}
    ran = 0
    for language, block in blocks(page):
        if language == "python":
            exec(block, named)
        elif language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "uwc"
                if " ".join(arguments) == JOBS:
                    shutil.copytree("runs/store", "shared/store", dirs_exist_ok=True)
                result = CliRunner().invoke(app, arguments, catch_exceptions=False)
                assert result.exit_code in STATUS.get(page, (0,)), f"{line}\n{result.output}"
        elif language == "yaml":
            before = text[: text.index(block)].removesuffix("```yaml\n").split("\n\n")[-2]
            [name] = re.findall(r"`([\w./-]+\.ya?ml)`", before)[-1:]
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(block, encoding="utf-8")
        else:
            assert language in ("console", "text")
            continue
        ran += 1
    assert ran >= 2


@pytest.mark.usefixtures("restored_registries")
def test_the_notebook_runs(folder: Path) -> None:
    notebook = nbformat.read(FOLDER / "own-loss-and-metric.ipynb", as_version=4)
    nbformat.validate(notebook)
    named: dict[str, object] = {"__name__": "tutorial"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source, named)
    assert {model.name for model in named["results"].unlearned} == {"npo", "bounded"}


def test_the_notebook_has_the_outputs_of_its_cells() -> None:
    cells = json.loads((FOLDER / "own-loss-and-metric.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells)
    assert all(output["output_type"] != "error" for cell in cells for output in cell.get("outputs", ()))


def test_all_pages_are_tried() -> None:
    found = {path.stem for path in FOLDER.iterdir()}
    assert found == {"index", "own-loss-and-metric", *PAGES}
