"""PISTOL: questions about contracts between companies and people, whose facts depend on each other as in a graph."""

from typing import Literal

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, RETAIN, Benchmark
from uwc.data.example import Example
from uwc.data.hub import HubData
from uwc.data.question_files import to_examples
from uwc.errors import ConfigError, DataError, listed

HUB = "xinchiqiu/PISTOL"
NEIGHBOURS = "neighbours"


def pistol(
    *, sample: Literal[1, 2] = 1, forget: tuple[str, ...] = ("A_B",), path: str = HUB, keep_neighbours: bool = True
) -> Benchmark:
    """Load PISTOL from the Hugging Face hub or from a local copy.

    A question is about one contract, an edge of the graph, which is its subject.

    Args:
        sample: the sample data set: 1 (20 edges) or 2 (75), with 20 questions about each.
        forget: the edges to forget, as in ``[A_B]``.
        path: the data set on the hub, or a folder with its files or with those of its repository
            (``sample_data_1.json``, ``data/sample_data_1.json``, or ``pistol_sample1.json``).
        keep_neighbours: whether the edges that share a party with a forgotten one become the set neighbours, which is
            scored and not used in unlearning; False leaves them in retain.

    Returns:
        The benchmark ``pistol-<sample>``, with the splits forget, retain and neighbours; the original model is trained
        on all.

    Raises:
        ConfigError: there is no such edge.
        DataError: the data set cannot be reached, a file or column is missing, or no edge is left to retain.

    Source: Qiu et al. 2024, arXiv:2406.16810. Layout (configurations ``pistol_data_1`` and ``pistol_data_2``; columns
    question, answer and edge) from users' code; it was not tried on the real files.
    """
    data = HubData("PISTOL", HUB, path)
    name = f"pistol_data_{sample}"
    files = [f"{folder}{file}.json" for folder in ("", "data/") for file in (f"sample_data_{sample}", name)]
    table = data.table(name, files=[*files, f"pistol_sample{sample}.json", f"{name}/train-*.parquet"])
    if "edge" not in table.columns:
        raise DataError(
            f"{table.source}: PISTOL's column 'edge' is missing; get the file again; it has: {listed(table.columns)}"
        )
    columns = {"question": "question", "answer": "answer", "subject": "edge"}
    examples = to_examples(table, prefix=name, columns=columns)
    edges = list(dict.fromkeys(e.subject for e in examples))
    for edge in forget:
        if edge not in edges:
            raise ConfigError(f"pistol: forget names the edge {edge!r}; valid: {listed(edges, 300)}")
    parties = {party for edge in forget for party in edge.split("_")}
    near = {e for e in edges if parties & set(e.split("_"))} if keep_neighbours else set()
    splits: dict[str, list[Example]] = {FORGET: [], RETAIN: [], NEIGHBOURS: []}
    for example in examples:
        edge = example.subject
        splits[FORGET if edge in forget else NEIGHBOURS if edge in near else RETAIN].append(example)
    if not splits[RETAIN]:
        raise DataError(
            f"{table.source}: every edge shares a party with a forgotten one; set keep_neighbours to false or forget "
            "fewer edges"
        )
    found = {split: tuple(examples) for split, examples in splits.items() if examples}
    return Benchmark(
        name=f"pistol-{sample}",
        splits=found,
        trained=tuple(found),
        refusals=DEFAULT_REFUSALS,
        files=tuple(data.read),
    )
