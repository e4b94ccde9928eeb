"""Texts that were generated elsewhere under attacks: their values by example, and the recovery."""

from collections.abc import Mapping, Sequence

import pandas as pd

from uwc import answers
from uwc.attacks.evaluate import Said, VariantValues, answer_rows, outcomes
from uwc.data.example import Example
from uwc.data.outputs import SystemTexts, VariantTexts
from uwc.metrics.evaluate import Scoring
from uwc.metrics.registry import metrics
from uwc.metrics.scored import needs_of
from uwc.metrics.semantics import Judges
from uwc.metrics.texts import TextSet, text_set
from uwc.results import AttackedModel, AttackInfo, AttackOutcome, Attacks, ModelKey

Attacked = Mapping[str, Mapping[str, Sequence[VariantValues]]]
"""Attack -> set -> its variants, scored by example."""


def attacked_texts(
    texts: SystemTexts, sets: Mapping[str, TextSet], scoring: Scoring, *, judges: Judges | None = None
) -> dict[str, dict[str, list[VariantValues]]]:
    """The values by example of the texts under each attack.

    Args:
        texts: the texts of a system.
        sets: set -> its texts without an attack.
        scoring: the metrics, of which those of texts are computed.
        judges: models that judge texts, for metrics that need them.
    """
    return {
        attack: {
            name: [
                _values(texts.examples[name], variant, seen(name, sets[name], scoring), scoring, judges or Judges())
                for variant in variants
            ]
            for name, variants in by_set.items()
        }
        for attack, by_set in texts.under.items()
    }


def seen(of_set: str, without: TextSet, scoring: Scoring) -> list[str]:
    """The metrics of a set that are sensitive to an attack on its texts: those computed from texts."""
    return [m for m in scoring.measured(of_set) if "texts" in needs_of([m]) and m not in without.logged]


def _values(
    examples: Sequence[Example], variant: VariantTexts, names: Sequence[str], scoring: Scoring, judges: Judges
) -> VariantValues:
    scored = text_set(examples, variant.texts, variant.prompts).judged_by(judges, names, scoring.settings)
    values = {name: scored.values(name, **scoring.settings.get(name, {})) for name in names}
    prompts = variant.prompts or ("",) * len(examples)
    said = {
        i: Said(prompt, example.answer, text, None)
        for i, (prompt, example, text) in enumerate(zip(prompts, examples, variant.texts, strict=True))
    }
    return VariantValues(variant.label, None, variant.note, None, values, said)


def attack_results(
    texts: SystemTexts,
    sets: Mapping[str, TextSet],
    attacked: Attacked,
    scoring: Scoring,
    *,
    key: ModelKey,
    control: Attacked | None = None,
) -> Attacks | None:
    """The recovery under each attack; None if there is no attack.

    Args:
        texts: the texts of a system.
        sets: set -> its texts without an attack.
        attacked: the result of `attacked_texts`.
        scoring: the metrics.
        key: what results call the system.
        control: the same of a system that was never trained on the data.
    """
    if not attacked:
        return None
    found: list[AttackOutcome] = []
    infos, counts = [], {}
    for attack, by_set in attacked.items():
        names: dict[str, None] = {}
        for of_set, variants in by_set.items():
            measured = list(variants[0].values)
            names |= dict.fromkeys(measured)
            counts[of_set] = len(texts.examples[of_set])
            found += outcomes(
                attack,
                None,
                {of_set: texts.examples[of_set]},
                {m: sets[of_set].values(m, **scoring.settings.get(m, {})) for m in measured},
                variants,
                control=(control or {}).get(attack, {}).get(of_set, ()),
                seed=scoring.seed,
            )
        infos.append(
            AttackInfo(
                name=attack,
                chain=(attack,),
                settings={},
                touches_weights=False,
                trains_on_scored=False,
                metrics=tuple(name for name in metrics.names() if name in names),
            )
        )
    model = AttackedModel(model=key, outcomes=tuple(found))
    return Attacks(attacks=tuple(infos), sets=counts, attacker={}, models=(model,))


def attack_rows(texts: SystemTexts, attacked: Attacked, *, key: ModelKey, name: str) -> pd.DataFrame:
    """The rows of a system under attacks in the table of answers.

    Args:
        texts: the texts of a system.
        attacked: the result of `attacked_texts`.
        key: the system.
        name: its name in the table.
    """
    return answers.joined(
        answer_rows(
            attack,
            variants,
            {of_set: texts.examples[of_set]},
            key=key,
            name=name,
            condition=answers.ATTACK,
        )
        for attack, by_set in attacked.items()
        for of_set, variants in by_set.items()
    )
