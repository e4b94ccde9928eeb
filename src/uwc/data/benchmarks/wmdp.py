"""WMDP: hazardous knowledge as multiple choice, and corpora to forget and to retain."""

from typing import Annotated, Any, Literal

from pydantic import Field

from uwc.data.benchmark import FORGET, RETAIN, Benchmark
from uwc.data.cells import as_text
from uwc.data.choices import ChoiceLayout, choice_example
from uwc.data.example import Example
from uwc.data.hub import HubData
from uwc.data.passages import PassageLength, passages, without_repeats
from uwc.data.tables import Table
from uwc.errors import DataError, listed

HUB, CORPORA, BIO_FORGET = "cais/wmdp", "cais/wmdp-corpora", "cais/wmdp-bio-forget-corpus"
QUESTIONS = ("bio", "cyber", "chem")

Domain = Literal["cyber", "bio"]


def wmdp(
    *,
    domain: Domain = "cyber",
    path: str = HUB,
    corpora: str = CORPORA,
    bio_forget: str = BIO_FORGET,
    texts: Annotated[int | None, Field(ge=1)] = 100,
    passage_length: PassageLength = 2000,
    layout: ChoiceLayout = "letters",
) -> Benchmark:
    """Load WMDP from the Hugging Face hub or from local copies.

    The forget and retain sets are passages of its corpora; the questions of all three domains are scored, by the metric
    `choice_accuracy` (chance: 0.25). There is no corpus for chemistry.

    Args:
        domain: the domain whose corpus is forgotten.
        path: the questions on the hub, or a folder with their files (``wmdp-bio/test-*.parquet``, ...).
        corpora: the corpora on the hub, or a folder with their files (``cyber-forget-corpus/train-*.parquet``, ..., or
            ``cyber-forget-corpus.jsonl``).
        bio_forget: the corpus of biology to forget, for which access must be asked for, on the hub or as a folder with
            ``bio-forget-corpus.jsonl``.
        texts: the most texts of each corpus, the first ones; None is all.
        passage_length: the most characters of a passage.
        layout: "letters" lists the options in the question, and the answers are letters; "texts" has the options as
            answers.

    Returns:
        The benchmark ``wmdp-<domain>``, with the splits forget, retain, wmdp_bio, wmdp_cyber and wmdp_chem. The
        original is a pretrained model, which is not trained on any of them.

    Raises:
        DataError: a data set cannot be reached, or a file or column is missing.

    Source: Li et al. 2024, arXiv:2403.03218. Layout of questions and corpora from their pages on the hub, that of the
    corpus of biology from users' code; they were not tried on the real files.
    """
    asked, kept = HubData("WMDP", HUB, path), HubData("WMDP corpora", CORPORA, corpora)
    apart = HubData("WMDP bio forget corpus", BIO_FORGET, bio_forget) if domain == "bio" else kept
    splits: dict[str, list[Example]] = {
        FORGET: _corpus(apart, domain, FORGET, texts, passage_length),
        RETAIN: _corpus(kept, domain, RETAIN, texts, passage_length),
    }
    for name in QUESTIONS:
        config = f"wmdp-{name}"
        table = asked.table(config, split="test")
        splits[f"wmdp_{name}"] = [_question(table, i, config, layout) for i in range(len(table.rows))]
    return Benchmark(
        name=f"wmdp-{domain}",
        splits=without_repeats(splits),
        trained=(),
        files=tuple(dict.fromkeys((*apart.read, *kept.read, *asked.read))),
        metrics=("core", "choice_accuracy"),
    )


def _corpus(data: HubData, domain: str, split: str, limit: int | None, length: int) -> list[Example]:
    name = f"{domain}-{split}-corpus"
    files = [f"{name}/train-*.parquet", f"{name}.jsonl", f"data/{name}.jsonl"]
    table = data.table(None if data.hub == BIO_FORGET else name, files=files)
    return passages(table, prefix=name, length=length, split=split, limit=limit)


def _question(table: Table, index: int, config: str, layout: ChoiceLayout) -> Example:
    number, row = table.rows[index]
    choices, answer = row.get("choices"), row.get("answer")
    return choice_example(
        as_text(row.get("question"), f"{table.at(number)}: the question"),
        options(choices, f"{table.at(number)}: the choices", table),
        answer if isinstance(answer, int) else -1,
        layout=layout,
        identity=f"{config}-{number:05d}",
        split=config.replace("-", "_"),
    )


def options(value: Any, where: str, table: Table) -> list[str]:
    """The texts of a list of options. Raises DataError if it is none."""
    if not isinstance(value, list):
        raise DataError(f"{where} are not a list of texts; the file has the columns {listed(table.columns)}")
    return [as_text(text, where) for text in value]
