"""The registries of metrics, and what every metric declares about itself."""

from typing import Any

from uwc.registry import Registry

_EXAMPLE_LEVEL = (
    "memorization", "likelihood", "truth_ratio", "overlap", "diversity", "divergence", "membership", "sampling",
    "semantics",
)  # fmt: skip

metrics: Registry[Any] = Registry("metric", modules=tuple(f"uwc.metrics.{m}" for m in _EXAMPLE_LEVEL))
"""Functions from the scores of a set of examples to one float64 value an example, NaN where it does not apply.

Each declares:
    needs: the names of its arguments, out of `INPUTS`.
    range: (least, greatest) possible value.
    higher_remembers: whether a high value means that the answer is remembered.
    average: "arithmetic", or "geometric" for values that span magnitudes.
    label: what tables call it.
    unscored: why an example may have no value.
"""

set_metrics: Registry[Any] = Registry("set-metric", modules=("uwc.metrics.set_level",))
"""Functions from the values of metrics on several sets of examples to one number.

Each declares:
    needs: its arguments as ``"SET:METRIC"``, or ``"retrained/SET:METRIC"`` for the model that never saw the data;
        those with a default, which come last, are left out where there is no such model.
    range, higher_remembers, label: as above; `higher_remembers` is None where neither direction means it.
    interval: whether a bootstrap interval makes sense.
    of_means: where it is a function of the means of its arguments, that function of [I, ...] means; else absent.
"""

JUDGES = ("encoder", "entailment")
"""The inputs that are models which judge texts."""

INPUTS: dict[str, str] = {
    "scores": "",
    "answers": "",
    "labelled": "",
    "reference": "the original model; give it with --original",
    "restated": "",
    "perturbed": "wrong answers of the same form; give the questions a column perturbed_answers",
    "texts": "generated answers; set score.max_new_tokens to more than 0",
    "text_tokens": "generated answers; set score.max_new_tokens to more than 0",
    "sampled": "",
    "gradient_norms": "",
    "similar_from": "",
    "encoder": "a sentence encoder; give a folder or hub name with --set score.judges.encoder=MODEL",
    "entailment": ("a model of natural-language inference; give one with --set score.judges.entailment=MODEL"),
}
"""The arguments a metric may ask for -> what a user must provide; empty where scoring gives it by itself.

scores: TokenScores of the true answers.
answers: the true answers as text.
labelled: the same, or the text of their labelled tokens where a peer's definitions say so.
reference: TokenScores of the true answers, with the columns that a reference model adds.
restated: TokenScores of the paraphrased answers; of the true answer where an example has none.
perturbed: TokenScores of the wrong answers, several an example.
texts: the generated answers.
text_tokens: their token ids.
sampled: TokenScores with a column for the metric's temperature and top_k.
gradient_norms: [E] norms of the gradient of each example's loss.
similar_from: [E] the shortest prefix of the answer from which the model's continuation is much like it.
encoder: a function from n texts to [n, d] embeddings.
entailment: a function from premises and hypotheses to whether the one entails the other.
"""
