"""MUSE: news articles and books, forgotten as raw text."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example, learnt
from uwc.data.hub import HubData
from uwc.data.passages import PassageLength, passages, without_repeats
from uwc.data.question_files import to_examples
from uwc.errors import ConfigError

HUBS = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
VERBATIM, FORGET_KNOWLEDGE, RETAIN_KNOWLEDGE = "verbatim", "forget_knowledge", "retain_knowledge"
Count = Annotated[int | None, Field(ge=1)]

ForgetSet = Literal[
    "raw", "scal", "scal_1", "scal_2", "scal_3", "scal_4", "sust", "sust_1", "sust_2", "sust_3", "sust_4"
]
FOLDS = (1, 2, 3, 4)
"""The forget sets of scalability and of sustainability."""


def muse(
    *,
    corpus: Literal["news", "books"] = "news",
    forget: ForgetSet = "raw",
    path: str | None = None,
    passage_length: PassageLength = 6000,
    texts: Count = None,
    retain_eval: Count = 100,
) -> Benchmark:
    """Load MUSE from the Hugging Face hub or from a local copy.

    Texts are cut into passages, which training learns as a whole, without a prompt template, and whose second half is
    scored. The beginnings and continuations of the set verbatim and the questions are MUSE's own.

    Args:
        corpus: the corpus.
        forget: the forget set: "raw"; for the criterion of scalability ``scal_1`` to ``scal_4``, each a part of the
            next; for that of sustainability ``sust_1`` to ``sust_4``, disjoint, to be unlearned one after another.
            "scal" and "sust" are all four together, with each as a portion. The corpus "books" has "raw" only.
        path: the data set on the hub, or a folder with its files (``raw/forget-*.parquet``, ``verbmem/forget-*``, ...);
            that of the corpus on the hub by default.
        passage_length: the most characters of a passage. MUSE cuts at 2048 tokens, about 8000 characters.
        texts: the most texts of forget and of retain; all by default.
        retain_eval: the most texts of retain_eval; None is all, 1778 for "news".

    Returns:
        The benchmark ``muse-<corpus>``, with the splits forget; retain (retain1, for unlearning); retain_eval
        (retain2); holdout (of privleak); verbatim; forget_knowledge and retain_knowledge (knowmem). The original model
        is trained on the first three.

    Raises:
        ConfigError: the corpus has no such forget set.
        DataError: the data set cannot be reached, or a file or column is missing.

    Source: Shi et al. 2024, arXiv:2407.06460. Layout from the data set's page on the hub; it was not tried on the real
    files.
    """
    if corpus == "books" and forget != "raw":
        raise ConfigError(f"muse: forget is {forget!r}, and MUSE-Books has no such set; valid: raw")
    data = HubData("MUSE", HUBS[corpus], path or HUBS[corpus])

    def cut(config: str, part: str, split: str, limit: int | None = None) -> list[Example]:
        table = data.table(config, split=part)
        return passages(table, prefix=f"{config}-{part}", length=passage_length, split=split, limit=limit)

    def asked(config: str, part: str, split: str, question: str, answer: str) -> list[Example]:
        table = data.table(config, split=part)
        columns = {"question": question, "answer": answer}
        return to_examples(table, prefix=f"{config}-{part}", columns=columns, split=split)

    config, _, number = forget.partition("_")
    portions: dict[str, tuple[str, ...]] = {}
    if config == "raw" or number:
        forgotten = cut(config, f"forget_{number}" if number else "forget", FORGET, texts)
    else:
        forgotten, portions = _together({f"{config}_{i}": cut(config, f"forget_{i}", FORGET, texts) for i in FOLDS})
    splits = {
        FORGET: forgotten,
        RETAIN: cut("raw", "retain1", RETAIN, texts),
        RETAIN_EVAL: cut("raw", "retain2", RETAIN_EVAL, retain_eval),
        HOLDOUT: cut("privleak", "holdout", HOLDOUT),
        VERBATIM: asked("verbmem", "forget", VERBATIM, "prompt", "gt"),
        FORGET_KNOWLEDGE: asked("knowmem", "forget_qa", FORGET_KNOWLEDGE, "question", "answer"),
        RETAIN_KNOWLEDGE: asked("knowmem", "retain_qa", RETAIN_KNOWLEDGE, "question", "answer"),
    }
    return Benchmark(
        name=f"muse-{corpus}" if forget == "raw" else f"muse-{corpus}-{forget}",
        splits=without_repeats(splits),
        refusals=DEFAULT_REFUSALS,
        files=tuple(data.read),
        metrics=("core", "muse"),
        portions=portions,
    )


def _together(sets: Mapping[str, Sequence[Example]]) -> tuple[list[Example], dict[str, tuple[str, ...]]]:
    """The passages of several sets, each text once, and set -> the ids of its passages among them."""
    first: dict[str, Example] = {}
    portions = {}
    for name, examples in sets.items():
        kept = [first.setdefault(learnt(example).answer, example) for example in examples]
        portions[name] = tuple(dict.fromkeys(example.id for example in kept))
    return list(first.values()), portions
