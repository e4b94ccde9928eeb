"""The answer variants that a model is scored on: the true answer, its paraphrase, and wrong answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from uwc.data.example import Example

Variant = Literal["answer", "paraphrased_answer", "perturbed_answers"]
VARIANTS: tuple[Variant, ...] = ("answer", "paraphrased_answer", "perturbed_answers")


def with_variants(
    examples: Sequence[Example], variants: Sequence[Variant] = VARIANTS
) -> tuple[list[Example], list[Variant]]:
    """One row for each example and answer variant, each an example with that answer.

    Rows are ordered by variant, then by example; the first rows are the examples with their true answers.

    Returns:
        The rows, which share the examples' ids, and the variant of each.
    """
    rows: list[Example] = []
    kinds: list[Variant] = []
    for variant in variants:
        for example in examples:
            answers = {
                "answer": (example.answer,),
                "paraphrased_answer": (example.paraphrased_answer,) if example.paraphrased_answer else (),
                "perturbed_answers": example.perturbed_answers,
            }[variant]
            rows.extend(example if a == example.answer else replace(example, answer=a) for a in answers)
            kinds.extend([variant] * len(answers))
    return rows, kinds
