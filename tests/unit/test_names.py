"""One pattern for all names that users give; nothing is written outside the folder of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import people

import uwc
from uwc.data.benchmark import Benchmark
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.names import LONGEST, require_name, require_names

GOOD = [
    "forget",
    "real_authors",
    "npo@1",
    "npo, calibrated",
    "npo (diverged)",
    "relearn+probe",
    "a.b-c=d",
    "7",
    "作者",
    "é",
]
BAD = [
    "",
    " a",
    "a ",
    "/tmp/a",
    "../a",
    "a/b",
    "a\\b",
    ".hidden",
    "-o",
    "a\n",
    "a\0",
    "a:b",
    "a*",
    "\x1b[31m",
    "\ud800",
    "a" * 101,
]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_name(name: str, tmp_path: Path) -> None:
    require_name("set", name)
    (tmp_path / f"{name}.json").write_text("{}", encoding="utf-8")
    assert [path.stem for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", BAD)
def test_what_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="name of a set") as raised:
        require_name("set", name)
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_a_name_that_is_taken_or_differs_in_case_only_is_refused() -> None:
    with pytest.raises(ConfigError, match="'store'"):
        require_name("study", "store", taken=("store",))
    with pytest.raises(ConfigError, match="'Towns' and 'towns'"):
        require_names("set", ["forget", "Towns", "towns"])
    require_names("set", ["forget", "retain"])


@given(st.text(max_size=LONGEST + 2))
def test_every_name_is_that_of_a_file_in_its_folder(name: str) -> None:
    try:
        require_name("set", name)
    except ConfigError:
        return
    path = Path("folder") / f"{name}.json"
    assert path.parent == Path("folder") and path.name == f"{name}.json" and "\0" not in name


def study(**changes: Any) -> Any:
    given = {"name": "x", "benchmark": {"name": "fictional-authors"}, "finetune": {}, "model": {"build": {}}}
    return uwc.load_config({**given, "unlearn": {"runs": [{"method": "npo"}]}, **changes})


PLACES: dict[str, Callable[[str], Any]] = {
    "study": lambda name: study(name=name),
    "run": lambda name: study(unlearn={"runs": [{"method": "npo", "name": name}]}),
    "group": lambda name: study(unlearn={"runs": [{"method": "npo", "group": name}]}),
    "attack": lambda name: study(attack={"chains": [{"chain": "prefix", "name": name}]}),
    "set": lambda name: Benchmark("b", {"forget": (people()[0],), "retain": (people()[2],), name: (people()[4],)}),
    "metric": lambda name: uwc.metric(lambda answers: answers, name=name),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["/abs/name", "../up", "a\nb"])
def test_every_place_where_a_name_is_given_checks_it(place: str, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a"):
        PLACES[place](name)
    assert name not in metrics.names()


def test_a_study_cannot_be_the_cache() -> None:
    with pytest.raises(ConfigError, match="'store' cannot be the name of a study"):
        study(name="store")
