"""Scoring of a set of examples: exactly the inputs that the metrics need."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from uwc.data.example import Example
from uwc.data.variants import VARIANTS, Variant
from uwc.metrics.memorization import extraction_strength
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.models.forward import score_tokens
from uwc.models.generation import Generated, generate, shortest_similar_prefixes
from uwc.models.target import Target
from uwc.models.token_scores import Sampling

TEXTS = ("texts", "text_tokens")
EXTRAS = frozenset({*TEXTS, "restated", "perturbed", "sampled", "gradient_norms", "similar_from"})
"""The needs with a cost; the others come with every pass."""
DEFAULT_SAMPLING = Sampling(temperature=1.0, top_k=40)


def needs_of(names: Iterable[str]) -> set[str]:
    """The needs of the metrics, out of `INPUTS`."""
    return {need for name in names for need in metrics.get(name).facts["needs"]}


def variants_of(needs: Collection[str]) -> tuple[Variant, ...]:
    """The answer variants that are needed."""
    wanted = {"answer": True, "paraphrased_answer": "restated" in needs, "perturbed_answers": "perturbed" in needs}
    return tuple(v for v in VARIANTS if wanted[v])


def score_set(
    target: Target,
    examples: Sequence[Example],
    *,
    needs: Collection[str],
    reference: Target | None = None,
    samplings: Sequence[Sampling] = (DEFAULT_SAMPLING,),
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    answered: Callable[..., Generated] = generate,
) -> ScoredSet:
    """Score examples for some metrics: one forward pass over all answers, and generation if a metric reads texts.

    Args:
        target: the model.
        examples: the questions.
        needs: the needs of the metrics, see `needs_of`.
        reference: the original model, for metrics that compare with it.
        samplings: the sampling settings that the metrics need.
        max_new_tokens: the most tokens of a generated answer.
        token_budget: the most padded tokens in a batch; from the free memory by default.
        answered: the function that generates answers, with the signature of `generate`.

    Raises:
        UserError: an example or the reference cannot be used.
    """
    tokens = score_tokens(
        target,
        examples,
        variants=variants_of(needs),
        reference=reference,
        samplings=samplings if "sampled" in needs else (),
        token_budget=token_budget,
    )
    encoded = target.encode(examples)
    answers = tuple(e.answer for e in encoded)
    labelled = tuple(e.labelled or "" for e in encoded) if any(e.labelled is not None for e in encoded) else ()
    texts: Generated | None = None
    gradients = similar = None
    if any(text in needs for text in TEXTS):
        texts = answered(target, examples, max_new_tokens=max_new_tokens, token_budget=token_budget)
    if "gradient_norms" in needs:
        from uwc.models.gradients import gradient_norms

        gradients = gradient_norms(target, examples)
    if "similar_from" in needs:
        scores = tokens.variant("answer")
        exact = np.rint(scores.answer_lengths() * (1.0 - extraction_strength(scores))).astype(np.int64)
        similar = shortest_similar_prefixes(target, examples, exact)
    scored = ScoredSet(tokens, answers, labelled=labelled, gradient_norms=gradients, similar_from=similar)
    if texts is None:
        return scored
    return replace(scored, texts=texts.texts, text_tokens=texts.tokens, text_finite=texts.finite)
