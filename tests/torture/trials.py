"""Commands of a second or two, what disturbs them, and what they must end in."""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

from tests.pipeline.conftest import Started, run_command
from tests.torture.conftest import WHOLE

from uwc.data.benchmarks.fictional import fictional_authors
from uwc.io import PARTIAL

SETTINGS = "authors: 6, forget_share: 0.34, facts: 1, phrasings: 1, holdout: 2, general: false"
STUDY = f"""
name: small
benchmark: {{name: fictional-authors, settings: {{{SETTINGS}}}}}
model: {{build: {{vocabulary: 400, hidden_size: 32, layers: 1, heads: 2, context: 128}}}}
finetune: {{epochs: 40, batch_size: 32, lr: 2.0e-2, schedule: cosine, checkpoint_every: 15}}
unlearn:
  training: {{epochs: 2, batch_size: 2, lr: 3.0e-3, warmup_ratio: 0.0, checkpoint_every: 1}}
  runs: [{{method: gd}}]
score: {{metrics: [extraction_strength], max_new_tokens: 0}}
calibrate: {{tau: 0.9, scan: 2, resolution: 0.2}}
"""
OTHER = STUDY.replace("name: small", "name: other").replace("{method: gd}", "{method: gd}, {method: npo}")
STEPS = 6
"""Steps of the study."""
QUESTIONS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
SHORT = ("--set", "score.max_new_tokens=0")
COMMANDS: dict[str, tuple[str, ...]] = {
    "study": ("study", "run", "small.yaml"),
    "compare": (
        "compare", "gd=unlearned", "--original", "original", *QUESTIONS, "--metric", "extraction_strength",
        "--attack", "none", "-o", "out", *SHORT, "--set", "calibrate.scan=2", "--set", "calibrate.resolution=0.2",
    ),
    "calibrate": (
        "calibrate", "original", "unlearned", *QUESTIONS, "--search-only", "-o", "out", "--save", "out/model", *SHORT,
    ),
    "unlearn": (
        "unlearn", "original", "--method", "gd", *QUESTIONS, "-o", "out", "--set", "training.epochs=4", "--set",
        "training.batch_size=2", "--set", "training.checkpoint_every=2",
    ),
    "score": ("score", "original", *QUESTIONS, "--metric", "extraction_strength", "-o", "out", *SHORT),
}  # fmt: skip
UNTOLD = {"manifest.json", "run.json", "run.log", "report.html"}
"""Files that hold times."""
AT_MOST = 120.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Place:
    """What all trials start from.

    Attributes:
        inputs: the folder of models, questions and studies.
        finished: command -> the folder in which it was run, undisturbed.
        seconds: command -> how long that took.
        changes: command -> how often it changed a file.
    """

    inputs: Path
    finished: dict[str, Path]
    seconds: dict[str, float]
    changes: dict[str, int]

    def new(self, folder: Path) -> Path:
        """Make a folder with the inputs."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.inputs.iterdir():
            (folder / path.name).symlink_to(path)
        return folder

    def copied(self, command: str, folder: Path) -> Path:
        """Make a folder in which a command has ended."""
        return shutil.copytree(self.finished[command], folder, symlinks=True)

    def require_same(self, command: str, folder: Path, case: str) -> None:
        """Run the command once more, undisturbed: it must end as if nothing had happened."""
        for path in hidden(folder):
            os.utime(path, (1, 1), follow_symlinks=False)
        done = finish(Started(*COMMANDS[command], cwd=folder))
        complete = command in ("calibrate", "unlearn") and "holds a model" in done.stderr
        assert done.returncode == (1 if complete else 0), f"{case}: {done.stderr}"
        if complete:  # ended while it removed these
            shutil.rmtree(folder / "out.checkpoints", ignore_errors=True)
            for left in folder.glob(f"**/{PARTIAL}"):
                left.rmdir()  # empty
        require_bits(self.finished[command], folder, case)
        assert not hidden(folder), f"{case}: left {hidden(folder)}"


def make_place(folder: Path) -> Place:
    """Make models and questions, and run each command."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    for name, text in {"small": STUDY, "other": OTHER}.items():
        (inputs / f"{name}.yaml").write_text(text, encoding="utf-8")
    benchmark = fictional_authors(authors=6, forget_share=0.34, facts=1, phrasings=1, holdout=2, general=False)
    for name, examples in {"forget": benchmark.splits["forget"], "retain": benchmark.splits["retain_eval"]}.items():
        lines = [json.dumps({"question": e.question, "answer": e.answer, "subject": e.subject}) for e in examples]
        (inputs / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    place = Place(inputs, {}, {}, {})
    for name, arguments in COMMANDS.items():
        where, count = place.new(folder / name), folder / f"{name}.count"
        started = time.perf_counter()
        done = run_command(*arguments, cwd=where, before=partial(count_changes, count))
        assert done.returncode == 0, done.stderr
        place.seconds[name] = time.perf_counter() - started
        place.finished[name], place.changes[name] = where, count.stat().st_size
        if name == "study":
            for kind, model in {"finetune": "original", "unlearn": "unlearned"}.items():
                (stored,) = (where / "runs" / "store").glob(f"{kind}-*/model")
                shutil.copytree(stored, inputs / model)
    return place


def save_place(place: Place, path: Path) -> None:
    path.write_text(json.dumps(asdict(place), default=str), encoding="utf-8")


def load_place(path: Path) -> Place:
    content = json.loads(path.read_text(encoding="utf-8"))
    finished = {name: Path(folder) for name, folder in content["finished"].items()}
    return Place(Path(content["inputs"]), finished, content["seconds"], content["changes"])


def numbers_in(folder: Path) -> dict[str, str]:
    """Hashes of all files that a command wrote, except those that hold times, and locks."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    kept = [p for p in paths if p.name not in UNTOLD and p.suffix not in (".lock", ".lease") and "away-" not in p.name]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def require_bits(expected: Path, found: Path, case: str) -> None:
    """The same files with the same content."""
    first, second = numbers_in(expected), numbers_in(found)
    differ = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    assert not differ, f"{case}: differ: {differ}"


def hidden(folder: Path) -> list[Path]:
    """What incomplete writes left."""
    found = [path for path in folder.rglob("*") if path.name == PARTIAL or re.fullmatch(r"\..*\.\d+", path.name)]
    return found + [path for name in ("tmp", "checkpoints") for path in folder.glob(f"**/store/{name}/*")]


def require_one_line(done: CompletedProcess[str], words: str, case: str) -> None:
    """The last line of standard error has the words, nothing else is an error, and there is no traceback."""
    lines = done.stderr.strip().splitlines()
    assert lines and words in lines[-1], f"{case}: {done.stderr}"
    assert not re.search("Traceback|unexpected|Exception ignored", done.stderr), f"{case}: {done.stderr}"
    assert len([line for line in lines if re.match("error|interrupted", line)]) == 1, f"{case}: {done.stderr}"


def finish(started: Started, number: int | None = None) -> CompletedProcess[str]:
    """Wait for the end; a command that hangs is killed, and fails."""
    until = time.monotonic() + AT_MOST
    if number is not None:
        return started.end(number)
    while started.running:
        if time.monotonic() > until:
            raise AssertionError(f"it hangs: {started.end(signal.SIGKILL)}")
        time.sleep(0.01)
    return started.end()


def share(count: int, *, sample: int = 1, of: int = 5) -> list[tuple[int, int]]:
    """Chunks of `count` trials, each its seed and number of trials, so that all cores have work; or the sample."""
    if not WHOLE:
        return [(0, sample)] if sample else []
    return [(first, min(of, count - first)) for first in range(0, count, of)]


def seeded(kind: str, first: int, number: int) -> tuple[random.Random, str]:
    """The generator of a trial, and its name in messages."""
    case = f"{kind} {first + number}"
    return random.Random(case), case


def _changed(event: str, arguments: tuple[object, ...], folder: str) -> bool:
    """Whether an audit event is a change of a file in the folder."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & writes:
            return False
    elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        return False
    path = arguments[0]
    return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(folder)


def on_change(act: Callable[[int], object]) -> None:
    """Call `act` with their number before every change of a file in the current folder."""
    folder, count = os.getcwd(), [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and _changed(event, arguments, folder):
            count[0] += 1
            act(count[0])

    sys.addaudithook(hook)


def count_changes(path: Path) -> None:
    """Write a byte to a file for every change."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    on_change(lambda _: os.write(file, b"x"))


def signal_at(at: Iterable[int], number: int) -> None:
    """Send this process a signal before its changes of these numbers."""
    at = set(at)
    on_change(lambda count: os.kill(os.getpid(), number) if count in at else None)


def limited(kind: int, more: int, *, added: bool) -> None:
    """Set a limit of this process, to `more` or by that above what it uses."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if added else 0
    resource.setrlimit(kind, (used + more, used + more))
