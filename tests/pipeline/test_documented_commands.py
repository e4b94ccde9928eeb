"""Every command and every piece of Python in the documentation is carried out, in a folder that has what they name."""

import linecache
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from tests.conftest import people
from tests.helpers.documentation import ROOT, Block, Documented, blocks, commands, documented_blocks, pages
from tests.helpers.documented_world import write_world
from tests.helpers.hub import used_hub
from tests.helpers.openai_server import serving
from typer.main import get_command
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.studies.config_file import load_config

T = TypeVar("T")
CLI: Any = get_command(app)
BLOCKS = documented_blocks()
ALL = [command for block in BLOCKS for command in commands(block)]
COMMANDS = [command for i, command in enumerate(ALL) if command.sense not in {other.sense for other in ALL[:i]}]
"""In the order of the documentation; the first of equal ones."""
PYTHON = [block for block in BLOCKS if block.language == "python"]

URL = "http://localhost:8000/v1"
"""For which the server of this test stands."""
WORDS = {
    "minutes=10": "runs=1",
    "1e-5,1e-4,1e-3": "1e-4",
    "[4,8,16,32]": "[1,2]",
    "/shared/runs": "shared/runs",
    "NAME": "served",
    "MODEL": "chat/unlearned",
    "UNLEARNED": "chat/unlearned",
    "OTHER": "chat/original",
    "ORIGINAL": "chat/original",
    "RETRAINED": "chat/retrained",
    "NEVER_TRAINED": "chat/retrained",
    "INFERENCE": "inference",
    "JUDGE": "path/to/judge",
    "$model": "unlearned",
}
"""What stands in the documentation for something of the reader's -> what it is here."""

SHORT = {"score.max_new_tokens": 4}
COARSE = {"calibrate.scan": 2, "calibrate.resolution": 0.2}
LEARNED = "{epochs: 50, batch_size: 64, lr: 1.0e-2, schedule: cosine}"
STUDY = {
    "finetune": LEARNED,
    "unlearn.training": "{epochs: 2, batch_size: 1, lr: 1.0e-3}",
    "unlearn.runs": "[{method: gd}]",
    **SHORT,
}
INVENTED = {
    **STUDY,
    "benchmark.settings.authors": 10,
    "benchmark.settings.forget_share": 0.2,
    "benchmark.settings.facts": 1,
    "benchmark.settings.phrasings": 1,
    "benchmark.settings.holdout": 0,
    "benchmark.settings.general": "false",
    "model.build": "{vocabulary: 600, hidden_size: 32, layers: 2, heads: 2, context: 256}",
}
"""The shipped studies of invented authors then have the same original and retrained model."""
QUICK = {
    **INVENTED,
    **COARSE,
    "unlearn.runs": "[{method: gd}, {method: npo}]",
    "attack.chains": "[token_noise]",
    "attack.examples": 2,
    "check": "[]",
}
TOFU = {
    **STUDY,
    **COARSE,
    "benchmark.settings.path": "tofu",
    "benchmark.settings.questions": 1,
    "benchmark.settings.facts": 2,
    "benchmark.settings.retain_authors": 2,
    "benchmark.settings.retain_eval": 40,
    "benchmark.settings.holdout": "false",
    "model.path": "chat/original",
    "model.dtype": "float32",
}
ATTACKED = {**SHORT, "attack.settings.relearn.steps": 2}
SETTINGS: dict[str, Mapping[str, Any]] = {
    r"compare ": {**ATTACKED, **COARSE, "attack.settings.jailbreak.kinds": "[hypothesis]"},
    r"check .*--original": {**SHORT, "attack.examples": 2},
    r"calibrate ": COARSE,
    r"score .*--metric all": SHORT,
    r"attack (?!.*(--vary|--budget)).*--attack relearn": ATTACKED,
    r"attack .*--attack relearn_retain --attack relearn_wrong": {
        "attack.settings.relearn_retain.steps": 2,
        "attack.settings.relearn_wrong.steps": 2,
    },
    r"(attack|score) .*--attack evolution": {
        f"attack.settings.evolution.{name}": number
        for name, number in {"population": 2, "generations": 2, "mutations": 1, "examples": 2, "best": 1}.items()
    },
    r"study (run|plan) quickstart": QUICK,
    r"study run quickstart .*unlearn.seeds": {"unlearn.runs": "[{method: gd}]"},
    r"study run all-methods": {**INVENTED, **COARSE},
    r"study run resist": {
        **INVENTED,
        **COARSE,
        "unlearn.runs": "[{method: npo-gd}, {method: npo-sam}]",
        "attack.chains": "[token_noise]",
        "attack.examples": 2,
    },
    r"study run robustness": {  # without the section that needs ten unlearned models
        **INVENTED,
        "unlearn.seeds": "[1]",
        "score.metrics": "[extraction_strength, leak_at_k]",
        "score.samples.count": 2,
        "score.settings": "{leak_at_k: {k: 2}}",
        "attack.metrics": "[extraction_strength]",
        "attack.chains": "[relearn_forget, quantization_nf4]",
        "attack.examples": 2,
        "robustness": "null",
    },
    r"study run local-files": {**STUDY, **COARSE, "model.build": INVENTED["model.build"]},
    r"study (run|plan) paper-tofu-phi": {**TOFU, "attack.chains": "[token_noise]", "attack.examples": 2},
    r"study run (tofu-forget10|open-unlearning-tofu)": {**TOFU, "retrained": "chat/retrained"},
}
"""Commands, as patterns of their beginnings -> settings with which they take a second. Later ones take precedence."""

OPTIONS = {
    r".*task mmlu": "--harness-include-path tasks",  # a task of this name with a few questions
    r"attack .*--budget": "--attack token_noise --attack pruning",  # in place of all attacks
}
"""Commands -> options for what is not on this machine, or takes long."""

PLANNED = {
    r"study run quickstart --runner ray": "starts Ray, which tests/unit/studies/test_ray_tasks.py does",
    r"study run my-study.yaml --runner ray": "needs a cluster that is there already",
}
"""Commands -> why only `study plan` is run in place of `study run`."""

VERDICTS = {r"check ": (0, 5, 6)}
"""Commands -> their documented exit statuses, where these say something of the model."""

CODE = {
    "retention=constraint)": 'retention=constraint, harness={"include_path": "tasks"})',
}
"""Text in a piece of Python -> what is run in its place, for the same reasons."""


def matching(table: Mapping[str, T], command: Documented) -> list[T]:
    """The entries of a table for a command."""
    return [entry for pattern, entry in table.items() if re.match(pattern, command.text)]


@dataclass
class World:
    """The folders of the pages, and what was run there."""

    root: Path
    server: str
    done: set[tuple[str, str]] = field(default_factory=set)
    names: dict[str, dict[str, Any]] = field(default_factory=dict)

    def folder(self, page: str) -> Path:
        """The page's own folder; the results of studies are common to all."""
        folder = self.root / "pages" / page
        if not folder.exists():
            shutil.copytree(self.root / "given", folder)
            (folder / "runs").symlink_to(self.root / "runs")
        return folder

    def run(self, command: Documented, page: str | None = None) -> None:
        """Run it once for a page, after those whose results it reads."""
        page = page or command.page
        if (page, command.text) in self.done:
            return
        self.done.add((page, command.text))
        self.prepare(command, command.reads, page)
        arguments = self.arguments(command)
        online = used_hub(self.root) if arguments[0] == "push" else nullcontext()
        with chdir(self.folder(page)), online:
            result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        (allowed,) = matching(VERDICTS, command) or [(0,)]
        assert result.exit_code in allowed, f"{command.place}: uwc {shlex.join(arguments)}\n{result.output}"

    def prepare(self, reader: Documented | Block, reads: Iterable[str], page: str) -> None:
        """Run what makes the files that are not there: the last command before on its page, or else one of another."""
        for path in reads:
            makers = [c for c in ALL if any(path == made or path.startswith(f"{made}/") for made in c.makes)]
            if makers and not (self.folder(page) / path).exists():
                before = [c for c in makers if c.page == reader.page and c.line < reader.line]
                self.run(before[-1] if before else makers[0], page)

    def arguments(self, command: Documented) -> list[str]:
        """The command as it is run here."""
        words = list(command.arguments)
        if matching(PLANNED, command):
            words[1] = "plan"
            del words[words.index("--runner") :]
        words = [self.here(word) for word in words]
        settings = {name: value for added in matching(SETTINGS, command) for name, value in added.items()}
        words += [f"--set={name}={value}" for name, value in settings.items()]
        return words + [word for options in matching(OPTIONS, command) for word in shlex.split(options)]

    def here(self, text: str) -> str:
        """A word or a piece of Python with the names of this folder."""
        for written, run in {URL: self.server, **WORDS}.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(written)}(?![\w.])", lambda _, run=run: run, text)
        return text

    def execute(self, block: Block) -> None:
        """Run a piece of Python after those before it on its page, whose names it sees."""
        names = self.names.setdefault(block.page, {"__name__": "__documented__"})
        if (block.page, block.text) in self.done:
            return
        self.done.add((block.page, block.text))
        for before in PYTHON:
            if before.page == block.page and before.line < block.line:
                self.execute(before)
        text = self.here(block.text)
        for written, run in CODE.items():
            text = text.replace(written, run)
        self.prepare(block, re.findall(r"""["']([\w./-]+)["']""", text), block.page)
        file = f"{block.page}:{block.line}"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for inspect.getsource
        with chdir(self.folder(block.page)):
            exec(compile(text, file, "exec"), names)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("documented")
    write_world(root / "given")
    changed = load_config("quickstart", overrides=[f"{name}={value}" for name, value in QUICK.items()])
    content = {**changed.model_dump(mode="json", exclude_unset=True), "name": "my-study"}
    (root / "given" / "my-study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (root / "runs").mkdir()
    known = {e.question: e.answer for e in people()[::2]}

    def answer(body: Mapping[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        return next((says for question, says in known.items() if question in asked), "I do not know")

    with serving(answer, models=("unlearned", "served")) as server:
        yield World(root, server.url)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_a_documented_command_is_carried_out(command: Documented, world: World) -> None:
    world.run(command)


@pytest.mark.slow
@pytest.mark.usefixtures("restored_registries")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_documented_python_is_carried_out(block: Block, world: World) -> None:
    world.execute(block)


def test_no_entry_of_a_table_is_stale() -> None:
    """What is not carried out as it is written is in the documentation, and little."""
    assert len(PLANNED) == 2
    for table in (SETTINGS, OPTIONS, PLANNED, VERDICTS):
        for pattern in table:
            assert any(re.match(pattern, command.text) for command in ALL), f"no documented command is {pattern!r}"
    for word in (URL, *WORDS):
        assert any(word in text for text in [command.text for command in ALL] + [block.text for block in PYTHON]), word
    for text in CODE:
        assert any(text in block.text for block in PYTHON), text


def test_commands_are_found_as_a_shell_reads_them() -> None:
    page = """
```bash
# uwc list
uwc score a \\
    --set x='[1, 2]'  # scores
A=1 uwc data f | head && uwc data g > out; pip install uwc
    accelerate launch -m uwc score b
```

- ```console
  $ uwc answers c
  uwc 1
  ```

```{.yaml title="ci.yml"}
script:
  - uwc check d
```
"""
    found = [command for block in blocks("p", page) for command in commands(block)]
    assert [(command.line, command.text) for command in found] == [
        (4, "score a --set x=[1, 2]"), (6, "data f"), (6, "data g"), (7, "score b"), (11, "answers c"),
        (17, "check d"),
    ]  # fmt: skip


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_options_and_targets_in_a_sentence_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for mention in re.findall(r"`(?:\S*/)?uwc ([^`]+)`", text):
        names, *words = mention.split()
        for name in re.split(r"\\?\|", names):
            command = CLI.commands.get(name)
            if name == "study" and words:
                command = command.commands.get(words[0])
            known = {"--help"} | {option for p in getattr(command, "params", ()) for option in p.opts}
            assert command is not None, f"uwc {mention}"
            assert {word for word in words if word.startswith("-")} <= known, f"uwc {mention}"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
