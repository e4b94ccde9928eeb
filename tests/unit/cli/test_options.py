"""How the values of command-line options are read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.core import TyperGroup

from uwc.cli.options import Commands, file_columns, named_files, sections
from uwc.cli.sections import ScoreSections, UnlearnSections
from uwc.errors import UserError
from uwc.objectives.rules import Prune
from uwc.studies.config_file import set_options


def test_keys_are_nested_and_values_are_yaml() -> None:
    given = ["training.lora.rank=8", "training.lora.alpha=2.0", "training.lr=1.0e-3", "tricks={temperature: 2}"]
    read = sections(UnlearnSections, [*given, "rule.share=0.25"])
    assert read.method("prune-first").rule == Prune(share=0.25)
    assert read.training == {"lora": {"rank": 8, "alpha": 2.0}, "lr": 1e-3} and read.tricks == {"temperature": 2.0}


def test_options_give_way_to_set() -> None:
    """``--column`` and ``--set benchmark.settings.columns`` are one setting; the key is the stronger."""
    defaults = {"score": {"suite": "tofu", "max_new_tokens": 8}}
    read = sections(ScoreSections, ["score.suite=muse"], defaults)
    assert (read.score.suite, read.score.max_new_tokens) == ("muse", 8)


def test_columns_of_every_file_and_of_one() -> None:
    given = ["question=Customer Question", "forget:question=Q: a=b", "retain:answer=A"]
    assert file_columns(given) == {
        "question": "Customer Question",
        "forget:question": "Q: a=b",
        "retain:answer": "A",
    }


def test_the_device_is_an_option_too() -> None:
    read = sections(ScoreSections, ["model.max_memory={cpu: 2GB, cuda:1: 10GB}"], device="map", trust_remote_code=True)
    assert (read.model.device, read.model.trust_remote_code) == ("map", True)
    assert read.model.loading().max_memory == {"cpu": "2GB", "cuda:1": "10GB"}
    assert sections(ScoreSections, ["model.device=cpu"], device="cuda:1").model.device == "cpu"


@pytest.mark.parametrize(
    ("read", "essentials"),
    [
        (lambda: set_options(["lr=[1"]), ["lr=[1", "not valid YAML"]),
        (lambda: set_options(["lr"]), ["'lr'", "key.key=value"]),
        (lambda: set_options(["lora=8", "lora.rank=4"]), ["lora.rank", "no entry 'rank'"]),
        (lambda: sections(ScoreSections, ["scor.suite=core"]), ["unknown key", "'scor'", "did you mean 'score'"]),
        (lambda: sections(ScoreSections, ["model.dtype=float8"]), ["model.dtype", "'float8'", "bfloat16"]),
        (lambda: sections(ScoreSections, ["score.metrics=[1]"]), ["--set", "1 is not a metric"]),
        (lambda: file_columns(["question"]), ["'question'", "FIELD=COLUMN"]),
        (lambda: file_columns([":question=x"]), ["FILE:FIELD=COLUMN"]),
    ],
)
def test_what_cannot_be_read_is_named(read: Callable[[], object], essentials: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read()
    for essential in essentials:
        assert essential in str(refused.value)


def test_files_are_called_by_their_stems_numbered_where_taken() -> None:
    files = [Path(f) for f in ("a/maths.jsonl", "b/maths.csv", "forget.jsonl", "retain.jsonl")]
    assert list(named_files(files)) == ["maths", "maths 2", "forget 2", "retain"]
    assert list(named_files(files, taken=("forget", "retain"))) == ["maths", "maths 2", "forget 2", "retain 2"]
    assert named_files([]) == {}


@pytest.mark.parametrize("method", ["make_context", "invoke"])
def test_errors_of_usage_are_escaped_in_every_version(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class UsageError(Exception):
        message = "No such option: --nosuch\x1b[31m"

        def format_message(self) -> str:
            return self.message

    def fail(*_: object, **__: object) -> None:
        raise UsageError

    monkeypatch.setattr(TyperGroup, method, fail)
    with pytest.raises(UsageError) as raised:
        getattr(Commands(name="uwc"), method)(None)
    assert raised.value.format_message() == r"No such option: --nosuch\x1b[31m"
