"""Names in results in place of absolute paths."""

from pathlib import Path

import pytest

from uwc.errors import UserError
from uwc.paths import path_names, path_tag, renaming
from uwc.results import Scores, Warning


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model, an output folder, and two models of one name elsewhere."""
    for name in ("here/models/m", "out/models/kept", "one/model", "two/model", "home"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def named(place: Path, *texts: str) -> list[str]:
    texts = tuple(text.replace("@", str(place)) for text in texts)
    return list(map(renaming(path_names(texts, place / "out")), texts))


def test_paths_become_names(place: Path) -> None:
    """Relative to the current folder or to the output, else the last part, with more where two end alike."""
    assert named(place, "@/here/models/m", "@/out/models/kept", "@/one/model") == ["models/m", "models/kept", "model"]
    assert named(place, "@/one/model", "@/two/model") == ["model", "two/model"]
    assert named(place, "run m: @/one/model/x.bin: is damaged.", "--set=a=@/one/model") == [
        "run m: x.bin: is damaged.",
        "--set=a=model",
    ]
    assert named(place, "@/one/model: no file", "@/one/model-2: none", "cannot open @/home", "@/home/x/y/z") == [
        "model: no file",
        "model-2: none",
        "cannot open home",
        "home/x/y/z",
    ]
    assert named(place, "cannot open @/home/x/y/z") == ["cannot open ~/x/y/z"]


def test_what_is_no_path_stays(place: Path) -> None:
    texts = [
        "models/m",
        "~/m",
        "and/or",
        "1/2",
        "/",
        "/no_think",
        "</s>",
        "https://example.org/a/b",
        "org/model",
        "a\nb",
    ]
    assert named(place, *texts) == texts


def test_a_current_folder_above_the_home_names_no_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "home" / "m").mkdir()
    monkeypatch.chdir(place)
    assert named(place, "@/home/m", "@/one/model") == ["m", "model"]


def test_results_of_two_models_of_one_name_are_told_apart(place: Path) -> None:
    one, two = str(place / "one" / "model"), str(place / "two" / "model")
    text = f"{one}: few clusters"
    full = Scores(model=one, sets={}, metrics={}, scores=(), warnings=(Warning(code="few_clusters", text=text),))
    scores = full.without_paths(place / "out")
    assert scores.model == "model" and scores.warnings[0].text == "model: few clusters"
    assert scores.paths == {"model": path_tag(one)} and full.without_paths(None, keep=True) == full
    scores.save(place / "out")
    Scores.prepare(place / "out", model=one)
    with pytest.raises(UserError, match="another model"):
        Scores.prepare(place / "out", model=two)
    full.model_copy(update={"model": "models/m"}).without_paths(None).save(place / "out")
    Scores.prepare(place / "out", model=str(place / "here" / "models" / "m"))
