"""What several retain files are called."""

from pathlib import Path

from uwc.cli.options import named_files


def test_files_are_called_by_their_stems_numbered_where_taken() -> None:
    files = [Path(f) for f in ("a/maths.jsonl", "b/maths.csv", "forget.jsonl", "retain.jsonl")]
    assert list(named_files(files)) == ["maths", "maths 2", "forget 2", "retain"]
    assert list(named_files(files, taken=("forget", "retain"))) == ["maths", "maths 2", "forget 2", "retain 2"]
    assert named_files([]) == {}
