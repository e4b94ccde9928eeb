"""TOFU: questions about 200 fictitious authors, a part of which is the forget set."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example, spread
from uwc.data.hub import HubData
from uwc.data.question_files import to_examples
from uwc.errors import ConfigError, DataError

HUB = "locuslab/TOFU"
PER_AUTHOR = 20
"""Number of consecutive rows about one author."""

_RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
_AUTHORS_OF = {"forget01": 2, "forget05": 10, "forget10": 20}
"""Number of the last authors of TOFU, each forget set a part of the next."""
_WRONG = {"perturbed_answers": "perturbed_answer"}
_VARIANTS = {
    "paraphrased_question": "paraphrased_question",
    "paraphrased_answer": "paraphrased_answer",
    **_WRONG,
}


def tofu(
    *,
    forget: Literal["forget01", "forget05", "forget10"] = "forget10",
    path: str = HUB,
    retain_eval: int = 400,
    holdout: bool = True,
    retain_authors: Annotated[int | None, Field(ge=1)] = None,
    questions: Annotated[int, Field(ge=1, le=PER_AUTHOR)] = PER_AUTHOR,
    facts: Annotated[int | None, Field(ge=1)] = None,
) -> Benchmark:
    """Load TOFU from the Hugging Face hub or from a local copy.

    An example's id has its row in TOFU's `full` set, from 1, and its subject is the author, for every forget set. The
    forget and retain_eval examples have paraphrases and perturbed answers; TOFU has none for the rest of retain. No
    TOFU model was trained on the holdout authors; they were written later than the others and need not be equally hard.

    Args:
        forget: the share of the authors in the forget set, in percent.
        path: the data set on the hub, or a folder with its files (`forget10_perturbed.json`, ...).
        retain_eval: the number of the retain examples on which TOFU evaluates that are not used in unlearning: a
            multiple of 20, so that no author is divided, up to 400.
        holdout: whether to add the holdout authors; copies of TOFU older than 2025-03 lack them.
        retain_authors: the number of authors in retain, besides those of retain_eval: the first ones; all if None.
        questions: the number of questions of each author: the first ones.
        facts: the number of questions in each of real_authors and world_facts, evenly spaced; all if None.

    Returns:
        The benchmark ``tofu-<forget>``, or ``tofu-<forget>-part`` if questions are left out, with the splits forget,
        retain, retain_eval, real_authors, world_facts and holdout; the original model is trained on the first three.
        TOFU's smaller forget sets are portions of the larger ones.

    Raises:
        ConfigError: `forget` or `retain_eval` is outside its range.
        DataError: the data set cannot be reached, or a configuration or column is missing.

    Source: Maini et al. 2024, arXiv:2401.06121, and its data set locuslab/TOFU on the hub.
    """
    if forget not in _RETAIN_OF:
        raise ConfigError(f"tofu: forget is {forget!r}; valid: {', '.join(_RETAIN_OF)}")
    data = HubData("TOFU", HUB, path)
    kept = _authors(_load(data, _RETAIN_OF[forget], split=RETAIN), _RETAIN_OF[forget], first_row=0)
    forgotten = _load(data, f"{forget}_perturbed", split=FORGET, columns=_VARIANTS)
    held_back = _held_back(kept, _load(data, "retain_perturbed", columns=_VARIANTS), retain_eval)
    held_back_ids = {e.id for e in held_back}
    splits = {
        FORGET: _authors(forgotten, f"{forget}_perturbed", first_row=len(kept)),
        RETAIN: [e for e in kept if e.id not in held_back_ids],
        RETAIN_EVAL: held_back,
        "real_authors": _load(data, "real_authors_perturbed", split="real_authors", columns=_WRONG),
        "world_facts": _load(data, "world_facts_perturbed", split="world_facts", columns=_WRONG),
    }
    if holdout:
        splits[HOLDOUT] = _load(data, forget.replace("forget", "holdout"), split=HOLDOUT, subject_every=PER_AUTHOR)
    kept_authors = list(dict.fromkeys(e.subject for e in splits[RETAIN]))[:retain_authors]
    splits[RETAIN] = [e for e in splits[RETAIN] if e.subject in kept_authors]
    for split in (FORGET, RETAIN, RETAIN_EVAL, *([HOLDOUT] if holdout else [])):
        splits[split] = [e for i, e in enumerate(splits[split]) if i % PER_AUTHOR < questions]
    for split in ("real_authors", "world_facts"):
        splits[split] = list(spread(splits[split], facts))
    whole = (retain_authors, questions, facts) == (None, PER_AUTHOR, None)
    return Benchmark(
        name=f"tofu-{forget}" if whole else f"tofu-{forget}-part",
        splits={split: tuple(examples) for split, examples in splits.items() if examples},
        trained=(FORGET, RETAIN, RETAIN_EVAL) if held_back else (FORGET, RETAIN),
        refusals=DEFAULT_REFUSALS,
        files=tuple(data.read),
        portions=_portions(splits[FORGET]),
    )


def _portions(forget: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """TOFU's forget sets that are in this one -> the ids of their examples."""
    authors = list(dict.fromkeys(e.subject for e in forget))
    last = {name: set(authors[-count:]) for name, count in _AUTHORS_OF.items() if count <= len(authors)}
    return {name: tuple(e.id for e in forget if e.subject in chosen) for name, chosen in last.items()}


def _authors(examples: list[Example], config: str, *, first_row: int) -> list[Example]:
    """The examples with id and author from their row in `full`, counted from 0."""
    if len(examples) % PER_AUTHOR:
        raise DataError(
            f"TOFU's {config} has {len(examples)} rows, not a multiple of the {PER_AUTHOR} that each author has; "
            "the copy is incomplete: get it again"
        )
    return [
        replace(e, id=f"full-{row + 1:05d}", subject=f"author-{row // PER_AUTHOR + 1:03d}")
        for row, e in enumerate(examples, first_row)
    ]


def _held_back(retain: list[Example], evaluated: list[Example], count: int) -> list[Example]:
    """The first examples on which TOFU evaluates retention, with variants, and with their ids in retain."""
    if not 0 <= count <= len(evaluated) or count % PER_AUTHOR:
        raise ConfigError(
            f"tofu: retain_eval is {count}; set it to a multiple of {PER_AUTHOR} from 0 to {len(evaluated)}, "
            "the number of rows in retain_perturbed"
        )
    same_question: defaultdict[str, deque[Example]] = defaultdict(deque)
    for example in retain:
        same_question[example.question].append(example)
    held_back = []
    for example in evaluated[:count]:
        if not same_question[example.question]:
            raise DataError(
                f"TOFU's retain_perturbed asks {example.question[:60]!r}, which is not in the retain set; "
                "take both from the same copy of the data set"
            )
        original = same_question[example.question].popleft()
        held_back.append(replace(example, id=original.id, subject=original.subject, split=RETAIN_EVAL))
    return held_back


def _load(
    data: HubData,
    config: str,
    *,
    split: str = "",
    columns: dict[str, str] | None = None,
    subject_every: int | None = None,
) -> list[Example]:
    """One of TOFU's configurations."""
    table = data.table(config, files=[f"{config}.json"], remedy="set holdout to false" if split == HOLDOUT else "")
    prefix = config.removesuffix("_perturbed")
    return to_examples(table, prefix=prefix, columns=columns, split=split, subject_every=subject_every)
