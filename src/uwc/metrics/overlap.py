"""How much of the true answer stands in the generated one."""

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats


@metrics.register(
    "rouge_l", source="arXiv:2401.06121", needs="texts", range=(0.0, 1.0),
    higher_remembers=True, average="arithmetic", label="ROUGE-L",
)  # fmt: skip
def rouge_l(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L recall: the share of the true answer's words in the longest subsequence common with the generated text.

    ``LCS(answer, generated) / words in the answer``, stemmed, as TOFU reports it. An empty generation scores 0.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    values = [scorer.score(a, g)["rougeL"].recall for a, g in zip(answers, generated, strict=True)]
    wordless = [not scorer._tokenizer.tokenize(a) for a in answers]
    return np.where(wordless, np.nan, np.array(values, dtype=np.float64))
