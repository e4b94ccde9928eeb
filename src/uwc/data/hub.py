"""Data sets of the Hugging Face hub, or local copies of their files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uwc.data.tables import SUFFIXES, Table, read_table
from uwc.errors import DataError
from uwc.io import expanded


@dataclass
class HubData:
    """A data set on the hub, or a folder with its files.

    Attributes:
        name: its name in messages, as in "MUSE".
        hub: its name on the hub.
        path: the same, or the folder.
        read: the files that were read from the folder, as given.
    """

    name: str
    hub: str
    path: str
    read: list[str] = field(default_factory=list)

    def table(
        self, config: str | None, *, split: str = "train", files: Sequence[str] = (), remedy: str = "", what: str = ""
    ) -> Table:
        """The rows of one split of one configuration.

        Args:
            config: the configuration; None if the data set has only one.
            split: the split.
            files: the file in a folder, as patterns relative to it, the first that matches; several files that match
                are one table. By default the hub's layout: ``config/split`` or ``config/split-*``.
            remedy: what to do if it is missing, besides naming a folder.
            what: what messages call it; the configuration by default.

        Raises:
            DataError: the hub cannot be reached, the configuration or file is missing, or a file cannot be read.
        """
        what = what or " ".join(part for part in (config, split if split != "train" else None) if part) or split
        remedy = f"name a copy of all files of {self.hub} with path: /folder/with/the/{self.name}/files" + (
            f"; or {remedy}" if remedy else ""
        )
        folder = expanded(self.path)
        if not folder.is_dir():
            return self._from_hub(config, split, what, remedy)
        patterns = list(files) or _layout(config, split)
        for pattern in patterns:
            if found := sorted(p for p in folder.glob(pattern) if p.is_file()):
                self.read.extend(str(Path(self.path) / p.relative_to(folder)) for p in found)
                return _joined(map(read_table, found))
        raise DataError(f"{folder}: {self.name}'s file {patterns[0]} is missing; {remedy}")

    def _from_hub(self, config: str | None, split: str, what: str, remedy: str) -> Table:
        if self.path.startswith(("/", ".", "~")):
            raise DataError(f"{self.path}: there is no such folder; {remedy}")
        from datasets import load_dataset

        try:
            rows = load_dataset(self.path, config, split=split).to_list()
        except Exception as error:  # the network, the hub and the parsers raise many kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{self.name}'s {what} cannot be loaded from {self.path!r} ({reason}); {remedy}") from error
        return Table(f"{self.path}/{config or split}", "row", list(enumerate(rows, 1)))


def _layout(config: str | None, split: str) -> list[str]:
    """The files of a split in the hub's layout, as patterns."""
    folder = "data" if config is None else config
    return [f"{folder}/{split}-*.parquet", *(f"{folder}/{split}{suffix}" for suffix in SUFFIXES)]


def _joined(tables: Iterable[Table]) -> Table:
    """The rows of all parts of a table, numbered from 1 if there are several."""
    first, *others = tables
    if not others:
        return first
    rows = [row for table in (first, *others) for _, row in table.rows]
    return Table(first.source, "row", list(enumerate(rows, 1)), json_cells=first.json_cells)
