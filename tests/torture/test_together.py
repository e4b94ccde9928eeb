"""Several runs at once of one study, or of two that share a store; one of them may be killed."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.pipeline.conftest import Started, run_command
from tests.torture.conftest import Tried
from tests.torture.trials import COMMANDS, STEPS, Place, finish, numbers_in, require_bits, seeded, share

OTHER = ("study", "run", "other.yaml")


@pytest.mark.parametrize("runs", [2, 4])
@pytest.mark.parametrize(("first", "count"), share(8, sample=0, of=2))
def test_runs_of_one_study(runs: int, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried(f"{runs} runs of one study at once", count, "the same bits, each step computed once")
    for number in range(count):
        moments, case = seeded(f"{runs} runs", first, number)
        folder = place.new(tmp_path / str(number))
        started = []
        for _ in range(runs):
            started.append(Started(*COMMANDS["study"], cwd=folder))
            time.sleep(moments.uniform(0, 0.3))
        done = [finish(one) for one in started]
        assert [one.returncode for one in done] == [0] * runs, f"{case}: {[one.stderr for one in done]}"
        assert sum(one.stderr.count("done  ") for one in done) == STEPS, case
        require_bits(place.finished["study"], folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("first", "count"), share(8, sample=0, of=2))
def test_one_is_killed_while_others_wait(first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("kill of one of three runs at once", count, "the others end with the same bits")
    for number in range(count):
        moments, case = seeded("one of three", first, number)
        folder = place.new(tmp_path / str(number))
        started = [Started(*COMMANDS["study"], cwd=folder) for _ in range(3)]
        time.sleep(moments.uniform(0.2, 2 * place.seconds["study"]))
        started.pop(moments.randrange(3)).end(signal.SIGKILL)
        done = [finish(one) for one in started]
        assert [one.returncode for one in done] == [0, 0], f"{case}: {[one.stderr for one in done]}"
        place.require_same("study", folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("first", "count"), share(8, sample=0, of=4))
def test_two_studies_that_share_a_store(first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("two studies in one store at once", count, "the same bits, each shared step computed once")
    alone = place.new(tmp_path / "alone")
    assert run_command(*OTHER, cwd=alone).returncode == 0
    for number in range(count):
        moments, case = seeded("two studies", first, number)
        folder = place.new(tmp_path / str(number))
        started = [Started(*COMMANDS["study"], cwd=folder)]
        time.sleep(moments.uniform(0, 1.0))
        started.append(Started(*OTHER, cwd=folder))
        done = [finish(one) for one in started]
        assert [one.returncode for one in done] == [0, 0], f"{case}: {[one.stderr for one in done]}"
        assert sum(one.stderr.count("done  ") for one in done) == STEPS + 3, case
        expected = {**numbers_in(place.finished["study"]), **numbers_in(alone)}
        assert numbers_in(folder) == expected, case
        shutil.rmtree(folder)
