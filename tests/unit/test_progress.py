"""Where the work is, without a terminal: lines by a clock that the test moves."""

from pathlib import Path

import pytest

from uwc import progress
from uwc.progress import Lines


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return []


def test_a_line_every_half_minute_with_the_eta(clock: Clock, written: list[str]) -> None:
    """Ten parts of 7 s each. The first line is due at 30 s and comes with the fifth part, at 35 s; the next at 70 s.

    The first part was done at 7 s, so at 35 s four parts took 28 s, and the five that are left take 35 s.
    """
    lines = Lines(written.append, clock)
    with lines.work("train", total=10) as advance:
        for part in range(1, 11):
            clock.now += 7
            advance(1, f"loss {part}")
    assert written == [
        "train: 5 of 10, ETA 35.0 s (loss 5)",
        "train: 10 of 10, ETA 0.0 s (loss 10)",
    ]


def test_inside_one_long_part_the_time_goes_by(clock: Clock, written: list[str]) -> None:
    """A thread ticks each second: a part of 95 s has lines at 30, 60 and 90 s, though nothing advances."""
    lines = Lines(written.append, clock)
    with lines.work("study", total=3, alike=False) as advance:
        advance(1, "2 steps left")
        with lines.work("score x", total=8):
            for _ in range(95):
                clock.now += 1
                lines.tick()
    expected = [f"study: 1 of 3, {t} so far (2 steps left); score x: 0 of 8, {t} so far" for t in ("30.0 s",)]
    assert written[:1] == expected and len(written) == 3
    assert written[2].endswith("score x: 0 of 8, 1 min 30 s so far")


def test_what_is_only_timed_is_told_where_nothing_is_counted(clock: Clock, written: list[str]) -> None:
    lines = Lines(written.append, clock)
    with lines.work("uwc score"):
        clock.now += 31
        lines.tick()
        with lines.work("generate m", total=4):
            clock.now += 31
            lines.tick()
    clock.now += 60
    lines.tick()
    assert written == ["uwc score: 31.0 s", "generate m: 0 of 4, 31.0 s so far"]


def test_resumed_parts_do_not_shorten_the_eta(clock: Clock, written: list[str]) -> None:
    """40 of 60 steps were there at the start; one step takes 10 s, so 17 of them take 170 s."""
    lines = Lines(written.append, clock)
    with lines.work("train", total=60) as advance:
        advance(40)
        for _ in range(3):
            clock.now += 10
            advance()
    assert written == ["train: 43 of 60, ETA 2 min 50 s"]


def test_bars_write_lines_to_standard_error_and_to_the_log(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.lines, "clock", clock)
    with progress.logged(tmp_path / "runs" / "x" / "run.log"):
        with progress.bar("score m", total=2) as advance:
            clock.now += 40
            advance()
        progress.note("done")
    progress.note("not in the log")
    assert "score m: 1 of 2, 40.0 s so far\ndone\nnot in the log\n" in capsys.readouterr().err
    stamped = (tmp_path / "runs" / "x" / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line[21:] for line in stamped] == ["score m: 1 of 2, 40.0 s so far", "done"]


def test_a_worker_sends_what_it_would_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(progress, "_send", None)
    monkeypatch.setattr(progress.console, "quiet", progress.console.quiet)
    monkeypatch.setattr(progress, "warned", set())
    progress.send_to(lambda kind, text: sent.append((kind, text)))
    progress.note("a note")
    progress.warn("a warning")
    progress.warn("a warning")
    progress.line("3 of 4")
    assert sent == [("note", "a note"), ("warning", "a warning"), ("line", "3 of 4")]
    assert capsys.readouterr().err == ""
