"""Metrics of the likelihood of the true answer: memorization, probability, divergence, sampling."""

import numpy as np
from numpy.typing import NDArray

from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, Sampling, TokenScores


def sum_by_example(values: Floats, rows: TokenScores, examples: TokenScores) -> Floats:
    """[E] the sum of the values of an example's rows; NaN for an example without rows.

    Args:
        values: one for each of `rows`.
        rows: several rows an example.
        examples: one row an example; gives the order of the result.
    """
    place = {identity: i for i, identity in enumerate(examples.ids)}
    at = np.array([place[identity] for identity in rows.ids], dtype=np.int64)
    total: Floats = np.bincount(at, weights=values, minlength=len(examples)).astype(np.float64)
    total[np.bincount(at, minlength=len(examples)) == 0] = np.nan
    return total


def max_by_example(values: Floats, rows: TokenScores, examples: TokenScores) -> Floats:
    """[E] the largest value of an example's rows; NaN for an example without rows."""
    place = {identity: i for i, identity in enumerate(examples.ids)}
    largest = np.full(len(examples), -np.inf)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, [place[identity] for identity in rows.ids], values)
    return np.where(np.isin(examples.ids, rows.ids), largest, np.nan)


def mean_by_example(values: Floats, rows: TokenScores, examples: TokenScores) -> Floats:
    """[E] the mean of the values of an example's rows; NaN for an example without rows."""
    return sum_by_example(values, rows, examples) / sum_by_example(np.ones(len(rows)), rows, examples)


@metrics.register(
    "extraction_strength",
    source="arXiv:2012.07805, arXiv:2406.09179",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="ES",
    unscored="the answer has no token",
)
def extraction_strength(scores: TokenScores) -> Floats:
    """The share of the answer that greedy decoding completes from the shortest sufficient prefix.

    ``ES = 1 - k* / n`` with ``k* = min{k : greedy continuation from (x, y_1..y_k) is y_{k+1}..y_n}``. Under teacher
    forcing ``n - k*`` is the length of the longest correct suffix, so that one pass gives it exactly. The
    end-of-sequence token is not counted; the value is 0 if the last token is wrong.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    lengths = scores.answer_lengths()
    with np.errstate(invalid="ignore"):
        strength: Floats = (lengths - shortest_prefixes(scores)) / np.where(lengths > 0, lengths, np.nan)
    return strength


def shortest_prefixes(scores: TokenScores) -> NDArray[np.int64]:
    """[E] k*, the fewest answer tokens from which greedy decoding completes the answer; see `extraction_strength`."""
    rows, correct = scores.rows[scores.in_answer], scores.greedy[scores.in_answer]
    lengths = scores.answer_lengths()
    position = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    last_wrong = np.full(len(scores), -1, dtype=np.int64)
    np.maximum.at(last_wrong, rows[~correct], position[~correct])
    return last_wrong + 1


@metrics.register(
    "exact_memorization",
    source="arXiv:2205.10770",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="EM",
    unscored="the answer has no token",
)
def exact_memorization(scores: TokenScores) -> Floats:
    """The share of answer tokens that are the model's most likely next tokens.

    ``EM = (1/n) sum_t 1[argmax_v z_t(v) = y_t]``, teacher-forced, without the end-of-sequence token.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    return scores.mean(scores.greedy, with_end=False)


@metrics.register(
    "extraction_strength_similar",
    source="arXiv:2406.09179",
    needs=("scores", "similar_from"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="ES, similar",
    unscored="the answer has no token",
)
def extraction_strength_similar(scores: TokenScores, similar_from: Floats) -> Floats:
    """Extraction strength with a continuation that is similar, not equal, to the rest of the answer.

    ``1 - k* / n`` with k* the shortest prefix whose greedy continuation has at least half of the remaining answer's
    tokens in common with it, in order: ``LCS(continuation, y_{k+1..n}) >= (n - k) / 2``. An empty continuation is not
    similar. At least `extraction_strength`.

    Args:
        scores: of the true answers.
        similar_from: [E] k*, found by generation.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    lengths = scores.answer_lengths()
    return 1.0 - similar_from / np.where(lengths > 0, lengths, np.nan)


@metrics.register(
    "probability",
    source="arXiv:2401.06121",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="probability",
    unscored="the answer has no token",
)
def probability(scores: TokenScores) -> Floats:
    """The answer's probability, normalised by its length.

    ``P = exp(-NLL / N)``: the geometric mean of the token probabilities, over the answer and its end-of-sequence token.

    Returns:
        [E] in 0..1; NaN for an example without tokens.
    """
    return np.exp(scores.mean(scores.logprob, with_end=True))


@metrics.register(
    "paraphrase_probability",
    source="arXiv:2506.12618",
    needs=("restated",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="probability of the paraphrase",
    unscored="the answer has no token",
)
def paraphrase_probability(restated: TokenScores) -> Floats:
    """The probability of the paraphrased answer, normalised by its length.

    ``exp(-NLL / N)`` as `probability`, of the paraphrased answer, or of the answer itself if there is no paraphrase.

    Returns:
        [E] in 0..1; NaN for an example without tokens.
    """
    found: Floats = probability(restated)
    return found


@metrics.register(
    "perplexity",
    source="arXiv:2406.09179",
    needs=("scores",),
    range=(1.0, np.inf),
    higher_remembers=False,
    average="geometric",
    label="PPL",
    unscored="the answer has no token",
)
def perplexity(scores: TokenScores) -> Floats:
    """The inverse of the length-normalised probability of the answer.

    ``PPL = exp(NLL / N)`` over the answer and its end-of-sequence token. Averages over examples are geometric, since an
    arithmetic mean would be dominated by the worst example. Values are clipped at e^700, so that they are finite.

    Returns:
        [E] in 1..e^700; NaN for an example without tokens.
    """
    return np.exp(np.minimum(-scores.mean(scores.logprob, with_end=True), 700.0))


@metrics.register(
    "probability_normalised",
    source="arXiv:2401.06121",
    needs=("scores", "perturbed"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="normalised probability",
    unscored="no wrong answer to compare",
)
def probability_normalised(scores: TokenScores, perturbed: TokenScores) -> Floats:
    """The true answer's share of the probability of all its alternatives.

    ``P(y) / (P(y) + sum_j P(y~_j))`` with P the length-normalised `probability` and y~_j the wrong answers.

    Args:
        scores: of the true answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..1; NaN for an example without wrong answers.
    """
    wrong = sum_by_example(probability(perturbed), perturbed, scores)
    true = probability(scores)
    share: Floats = true / (true + wrong)
    return share


@metrics.register(
    "kl_to_original",
    source="arXiv:2406.09179",
    needs=("reference",),
    range=(0.0, float("inf")),
    higher_remembers=False,
    average="arithmetic",
    label="KL to original",
    unscored="the answer has no token",
)
def kl_to_original(scores: TokenScores) -> Floats:
    """Kullback-Leibler divergence of the model's next-token distributions from the original's.

    ``KL(p_original || p) = sum_v p_original(v) log(p_original(v) / p(v))`` in nats, averaged over the positions that
    predict the answer and its end-of-sequence token.

    Returns:
        [E] in 0..inf; NaN without a reference model.
    """
    return scores.mean(scores.kl, with_end=True)


@metrics.register(
    "probabilistic_extraction",
    source="arXiv:2410.19482",
    needs=("sampled",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="extraction in n tries",
    unscored="the answer has no token",
)
def probabilistic_extraction(
    sampled: TokenScores, *, temperature: float = 1.0, top_k: int = 40, tries: int = 100
) -> Floats:
    """The probability that sampling yields the whole answer at least once in n tries.

    ``1 - (1 - p)^n`` with ``p = prod_t p_t`` and p_t the probability of the answer's token t after division of the
    logits by the temperature and truncation to the top k, without the end-of-sequence token.

    Args:
        sampled: token scores with a column for this temperature and top-k.
        temperature: positive.
        top_k: 0 means the whole vocabulary.
        tries: n, at least 1.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.

    Raises:
        ConfigError: this temperature and top-k were not scored, or `tries` is less than 1.
    """
    column = Sampling(temperature, top_k).name
    if tries < 1:
        raise ConfigError(f"probabilistic extraction: tries = {tries}; it must be at least 1")
    if column not in sampled.sampled:
        scored = ", ".join(sampled.sampled) or "none"
        raise ConfigError(f"sampling with {column} was not scored (scored: {scored}); score the model with it")
    logprob = np.minimum(sampled.total(sampled.sampled[column], with_end=False), 0.0)
    with np.errstate(divide="ignore"):
        chance = -np.expm1(tries * np.log1p(-np.exp(logprob)))
    return np.where(sampled.answer_lengths() > 0, chance, np.nan)
