"""The scored examples of a study's attacks, and the attacker's data, from the benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uwc.attacks.chain import Chain
from uwc.attacks.data import AttackData, split_by_subject
from uwc.attacks.evaluate import check_metrics, visible
from uwc.data.benchmark import FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example
from uwc.data.question_files import read_examples
from uwc.errors import ConfigError, DataError
from uwc.registry import unknown_name
from uwc.studies.attack_config import AttackConfig, ChainConfig

RETAIN_SHARE = 0.5
"""The attacker's share of the retain set's subjects, if all of it is used in unlearning."""


@dataclass(frozen=True)
class AttackSetup:
    """The data of a study's attacks; one attack scores all sets.

    Attributes:
        data: the attacker's data, and the scored examples, concatenated by set.
        sets: the scored examples of each set, a subset of those that the study scores.
    """

    data: AttackData
    sets: Mapping[str, tuple[Example, ...]]


def attack_setup(
    config: AttackConfig, benchmark: Benchmark, scored: Mapping[str, Sequence[Example]], *, seed: int
) -> AttackSetup:
    """The attacker's part of the benchmark, and the rest of the sets, to be scored.

    The attacker has some subjects of the forget set, the retain examples that were used in unlearning, and an unrelated
    set. None of their subjects or questions is scored.

    Args:
        config: the study's attacks.
        benchmark: the source of the examples.
        scored: every set that the study scores.
        seed: of the choice of the attacker's subjects.

    Raises:
        ConfigError: an unknown set is named.
        DataError: there are too few subjects, or the attacker's data overlap the scored examples.
    """
    for name in config.sets:
        if name not in scored:
            raise ConfigError(unknown_name("set in attack.sets", name, list(scored)))
    attacker = config.attacker
    train: list[Example] = []
    if attacker.forget_share:
        train, _ = split_by_subject(benchmark[FORGET], attacker.forget_share, seed=seed)
    retain = list(benchmark[RETAIN])
    if benchmark.retention == RETAIN and any(name.startswith(RETAIN) for name in config.sets):
        retain, _ = split_by_subject(retain, RETAIN_SHARE, seed=seed)
    owned = {e.id for e in (*train, *retain)}
    sets = {name: _spread([e for e in scored[name] if e.id not in owned], config.examples) for name in config.sets}
    asked = [e for examples in sets.values() for e in examples]
    data = AttackData(
        asked,
        train=train,
        retain=_spread(retain, attacker.retain_examples),
        unrelated=_unrelated(attacker.unrelated, benchmark),
        translations=_translations(attacker.translations, asked),
        original=benchmark.training_examples(with_forget=True),
    )
    return AttackSetup(data, sets)


def chain_metrics(
    metrics: Sequence[str], config: ChainConfig, setup: AttackSetup, *, depths: Sequence[int]
) -> list[str]:
    """The metrics that are sensitive to an attack, which is checked against the data and the models' depths.

    Raises:
        ConfigError: no metric is, a metric cannot be computed under attack, or a layer does not exist.
        DataError: data that it needs is missing.
    """
    chain: Chain = config.made()
    seen = visible(metrics, chain)
    check_metrics(seen or metrics, [chain], examples=setup.data.scored, reference=True)
    try:
        chain.check_data(setup.data)
    except DataError as error:
        raise DataError(
            f"{error}; in a study the attacker's data come from the benchmark: a part of the forget set "
            "(attack.attacker.forget_share above 0), the retain set, and a further set (attack.attacker.unrelated); "
            "translations from the file attack.attacker.translations"
        ) from None
    for depth in depths:
        chain.check_depth(depth)
    return seen


def _translations(path: str | None, asked: Sequence[Example]) -> dict[str, str]:
    """Id -> the question in another language, for the questions in the file."""
    if path is None:
        return {}
    known = {e.question: e.answer for e in read_examples(path, columns={"answer": "translation"})}
    return {e.id: known[e.question] for e in asked if e.question in known}


def _unrelated(name: str | None, benchmark: Benchmark) -> Sequence[Example]:
    further = [split for split in benchmark.splits if split not in (FORGET, RETAIN, RETAIN_EVAL, HOLDOUT)]
    if name is None:
        return benchmark[further[0]] if further else ()
    if name not in benchmark.splits:
        raise ConfigError(unknown_name("set in attack.attacker.unrelated", name, list(benchmark.splits)))
    return benchmark[name]


def _spread(examples: Sequence[Example], count: int | None) -> tuple[Example, ...]:
    """`count` of the examples, evenly spaced."""
    if count is None or count >= len(examples):
        return tuple(examples)
    return tuple(examples[i] for i in np.linspace(0, len(examples) - 1, count).round().astype(int))
