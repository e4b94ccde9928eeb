"""The registries of metrics, and the declarations of a metric."""

from typing import Any

from uwc.registry import Registry

_EXAMPLE_LEVEL = (
    "memorization",
    "likelihood",
    "truth_ratio",
    "overlap",
    "diversity",
    "divergence",
    "membership",
    "sampling",
    "semantics",
)

metrics: Registry[Any] = Registry("metric", modules=tuple(f"uwc.metrics.{m}" for m in _EXAMPLE_LEVEL))
"""Functions from the scores of a set of examples to one float64 value an example, NaN where it does not apply.

Each declares:
    needs: the names of its arguments, out of `INPUTS`.
    range: (least, greatest) possible value.
    higher_remembers: whether a high value means that the answer is remembered.
    average: "arithmetic", or "geometric" for values that span magnitudes.
    label: what tables call it.
    unscored: why a value may be missing.
"""

set_metrics: Registry[Any] = Registry("set-metric", modules=("uwc.metrics.set_level",))
"""Metrics of whole sets: functions from the values of metrics on several sets of examples to one number.

Each declares:
    needs: its arguments as ``"SET:METRIC"``, or ``"retrained/SET:METRIC"`` for the model that never saw the data;
        those with a default, which come last, are left out where there is no such model.
    range, higher_remembers, label: as above; `higher_remembers` is None where neither direction means it.
    interval: whether a bootstrap interval is meaningful.
    of_means: the function of [I, ...] means, if it is a function of the means of its arguments; else absent.
"""

JUDGES = ("encoder", "entailment")
"""The inputs that are judges of texts."""

INPUTS: dict[str, str] = {
    "scores": "",
    "answers": "",
    "labelled": "",
    "reference": "the original model; give it with --original",
    "restated": "",
    "perturbed": "wrong answers of the same form; give the questions a column perturbed_answers",
    "texts": "generated answers; give --max-new-tokens more than 0 (a study: score.max_new_tokens)",
    "text_tokens": "generated answers; give --max-new-tokens more than 0 (a study: score.max_new_tokens)",
    "sampled": "",
    "gradient_norms": "",
    "similar_from": "",
    "encoder": "a sentence encoder; give a folder or hub name with --encoder (a study: score.judges)",
    "entailment": (
        "a model of natural-language inference; give a folder or hub name with --entailment (a study: score.judges)"
    ),
}
"""The possible arguments of a metric -> what a user must provide; empty if scoring always provides it.

scores: TokenScores of the true answers.
answers: the true answers as text.
labelled: the same, or the text of their labelled tokens in a peer's definitions.
reference: TokenScores of the true answers, with the columns of a reference model.
restated: TokenScores of the paraphrased answers, or of the true answer if an example has none.
perturbed: TokenScores of the wrong answers, several an example.
texts: the generated answers.
text_tokens: their token ids.
sampled: TokenScores with a column for the metric's temperature and top_k.
gradient_norms: [E] norms of the gradient of each example's loss.
similar_from: [E] the length of the shortest prefix of the answer with a similar continuation.
encoder: a function from n texts to [n, d] embeddings.
entailment: a function from n premises and hypotheses to [n] whether the first entails the second.
"""
