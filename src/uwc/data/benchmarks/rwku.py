"""RWKU: knowledge of 200 real people, probed at three levels, with neighbours and general abilities."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, RETAIN, Benchmark
from uwc.data.cells import as_text
from uwc.data.choices import ChoiceLayout, choice_example
from uwc.data.example import Example
from uwc.data.hub import HubData
from uwc.data.passages import PassageLength, passages, without_repeats
from uwc.data.tables import Table
from uwc.errors import ConfigError, DataError, listed
from uwc.registry import unknown_name

HUB = "jinzhuoran/RWKU"

Corpus = Literal["train_original_passage", "train_positive_llama3", "train_positive_phi3"]

Maker = Callable[[Mapping[str, Any], str, str], Example]
"""A function from a row, an id and a split to an example."""

_LOCAL = {
    "forget_target": "intro",
    "train_original_passage": "passage",
    "train_positive_llama3": "positive",
    "train_positive_phi3": "positive_phi",
    "mia_forget": "forget_mia",
    "mia_retain": "retain_mia",
    "utility_general": "retain_mmlu",
    "utility_reason": "retain_bbh",
    "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa",
}
"""Configuration -> the name of its file, where that differs."""
_BLANK = "Please complete the blank in the following question.\n"
_BRIEFLY = "Please briefly answer the following question.\n"


def rwku(
    *,
    targets: int | tuple[str, ...] = 1,
    corpus: Corpus = "train_original_passage",
    path: str = HUB,
    utility: bool = True,
    passage_length: PassageLength = 2000,
    layout: ChoiceLayout = "letters",
) -> Benchmark:
    """Load RWKU from the Hugging Face hub or from a local copy.

    RWKU has no retain data for unlearning; here the questions about the neighbours of the targets are the retain set,
    so that a method with a retain term trains on the questions that measure retention. Wrong answers are known for
    multiple choice only.

    Args:
        targets: the people to forget: their number, from the first, or their names.
        corpus: the passages to forget: of Wikipedia, or as a model wrote them.
        path: the data set on the hub, or a folder with its files (``All/forget_level1.json``, ...).
        utility: whether to add the sets of general abilities.
        passage_length: the most characters of a passage.
        layout: of multiple choice, as for the benchmark wmdp.

    Returns:
        The benchmark ``rwku``, with the splits forget (passages), fill_in, questions and adversarial (levels 1 to 3),
        retain (neighbours, levels 1 and 2), general (MMLU), reason (BBH, without worked examples), truthfulness
        (TruthfulQA, one right option) and factuality (TriviaQA, the first of its answers). Fluency, which has no true
        answers, is left out. The original is a pretrained model, which is not trained on any of them.

    Raises:
        ConfigError: there is no such target.
        DataError: the data set cannot be reached, or a file or column is missing.

    Source: Jin et al. 2024, arXiv:2406.10890. Configurations and columns as its authors' code reads them, file names
    from the pages of the hub; it was not tried on the real files.
    """
    data = HubData("RWKU", HUB, path)
    chosen = _targets(_table(data, "forget_target", split="train"), targets)

    def probes(name: str, config: str, make: Maker) -> list[Example]:
        table = _table(data, config)
        rows = [(number, row) for number, row in table.rows if row.get("subject") in chosen]
        return [_made(table.at(number), make, row, f"{config}-{number:05d}", name) for number, row in rows]

    texts = _table(data, corpus, split="train")
    about = Table(texts.source, texts.unit, [(n, row) for n, row in texts.rows if row.get("subject") in chosen])
    splits = {
        FORGET: passages(about, prefix=corpus, length=passage_length, split=FORGET),
        "fill_in": probes("fill_in", "forget_level1", _asked(_BLANK)),
        "questions": probes("questions", "forget_level2", _asked(_BRIEFLY)),
        "adversarial": probes("adversarial", "forget_level3", _asked(_BRIEFLY)),
        RETAIN: probes(RETAIN, "neighbor_level1", _asked(_BLANK)) + probes(RETAIN, "neighbor_level2", _asked(_BRIEFLY)),
    }
    if utility:
        splits["general"] = probes("general", "utility_general", _multiple_choice(layout))
        splits["reason"] = probes("reason", "utility_reason", _asked("", question="question"))
        splits["truthfulness"] = probes("truthfulness", "utility_truthfulness", _truthfulness(layout))
        splits["factuality"] = probes("factuality", "utility_factuality", _asked("", "question", "answers"))
    return Benchmark(
        name="rwku",
        splits=without_repeats({split: examples for split, examples in splits.items() if examples}),
        trained=(),
        refusals=DEFAULT_REFUSALS,
        files=tuple(data.read),
        metrics=("core", "choice_accuracy") if utility else (),
    )


def _table(data: HubData, config: str, *, split: str = "test") -> Table:
    name = _LOCAL.get(config, config)
    table = data.table(config, split=split, files=[f"All/{name}.json", f"{config}/{split}-*.parquet", f"{config}.json"])
    if "subject" not in table.columns and config != "forget_target":
        raise DataError(
            f"{table.source}: RWKU's column 'subject' is missing; get the file again; it has: {listed(table.columns)}"
        )
    return table


def _targets(table: Table, targets: int | tuple[str, ...]) -> tuple[str, ...]:
    names = [str(row.get("target")) for _, row in table.rows]
    if isinstance(targets, int):
        if not 1 <= targets <= len(names):
            raise ConfigError(f"rwku: targets is {targets}; set it from 1 to {len(names)}, or name people")
        return tuple(names[:targets])
    for name in targets:
        if name not in names:
            raise ConfigError(f"rwku: {unknown_name('target', name, names)}")
    return targets


def _made(where: str, make: Maker, row: Mapping[str, Any], identity: str, split: str) -> Example:
    """The example of a row, with its place in messages."""
    try:
        return make(row, identity, split)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{where}: a column is missing or of another form ({error!r}); get the file again") from None


def _asked(before: str, question: str = "query", answer: str = "answer") -> Maker:
    def make(row: Mapping[str, Any], identity: str, split: str) -> Example:
        said = row[answer][0] if isinstance(row[answer], list) else row[answer]
        return Example(
            id=identity,
            question=before + as_text(row[question], question),
            answer=as_text(said, answer),
            subject=row["subject"],
            split=split,
        )

    return make


def _multiple_choice(layout: ChoiceLayout) -> Maker:
    def make(row: Mapping[str, Any], identity: str, split: str) -> Example:
        choices, subject = list(row["choices"]), row["subject"]
        return choice_example(
            row["question"], choices, int(row["answer"]), layout=layout, identity=identity, subject=subject, split=split
        )

    return make


def _truthfulness(layout: ChoiceLayout) -> Maker:
    def make(row: Mapping[str, Any], identity: str, split: str) -> Example:
        found = row["mc1_targets"]
        choices, right = list(found["choices"]), list(found["labels"]).index(1)
        return choice_example(
            row["question"], choices, right, layout=layout, identity=identity, subject=row["subject"], split=split
        )

    return make
