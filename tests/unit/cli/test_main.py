"""Lines of libraries that are left out, and only these; how a command ends."""

import logging
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from uwc import progress
from uwc.cli import main as command_line
from uwc.cli.main import SIGNALS, main


def test_known_lines_are_left_out_and_others_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with warnings.catch_warnings(record=True) as shown, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        progress.silence()
        library.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        library.warning("out of memory")
        warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("the loss is not finite", UserWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["out of memory"]
    assert [str(warning.message) for warning in shown] == ["the loss is not finite"]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command is `uwc study run`, and signals are handled afterwards as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("sys.argv", ["uwc", "study", "run"])
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_and_the_status_of_shells(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(number, signal.SIG_DFL)  # nohup, which may have started the tests, ignores SIGHUP
    monkeypatch.setattr(command_line, "app", lambda **_: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + number
    (line,) = capsys.readouterr().err.splitlines()
    assert signal.Signals(number).name in line and "resume" in line


@pytest.mark.usefixtures("handlers")
def test_an_ignored_hangup_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(command_line, "app", lambda **_: signal.raise_signal(signal.SIGHUP))
    main()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


class PanicException(BaseException):
    """As Rust's libraries raise it."""


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    "error",
    [
        PanicException("ThreadPoolBuildError: Resource temporarily unavailable"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        OSError(12, "x"),
    ],
)
def test_a_lack_of_memory_is_no_fault_of_the_program(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory") and "resume" in line


def test_an_interrupt_while_the_command_line_is_imported_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'uwc.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from uwc.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "interrupted by SIGINT\n"
