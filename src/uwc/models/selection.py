"""Selection of a few examples out of many: at random, the least likely, or by Fisher information."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from uwc import progress
from uwc.data.example import Example
from uwc.errors import DataError, ModelError
from uwc.models.model import Model
from uwc.models.token_scores import Floats

Select = Literal["random", "likelihood", "fisher"]
"""The rule by which a few examples are chosen out of many."""
RULES: tuple[Select, ...] = get_args(Select)
DRAWS, DIMENSIONS = 8, 256
"""Labels drawn for each token, and the most dimensions of an embedding."""
RIDGE = 1.0
_OVERSAMPLED = 2
"""The forward steps choose this many times the examples, and the backward steps remove the others."""
_LOGITS = {"cpu": 1 << 24, "mps": 1 << 26}
_LOGITS_ELSEWHERE = 1 << 28
"""The most logits at once."""
_NUMBERS = 1 << 22
"""The most numbers in a block of embeddings that is read in double precision."""


def require_effect(rule: Select, count: int | None, pool: int, *, option: str) -> None:
    """Raise DataError if a rule other than "random" chooses all `pool` examples, so that it has no effect.

    Args:
        rule: the rule.
        count: the number of chosen examples; all if None.
        pool: the number of examples that there are.
        option: the setting of the number, in the message.
    """
    if rule != "random" and (count is None or count >= pool):
        raise DataError(
            f"select: {rule} has no effect, since all {pool} examples are taken; "
            f"{'give' if count is None else 'lower'} {option}, or leave select out"
        )


def select(model: Model, examples: Sequence[Example], count: int | None, *, rule: Select, seed: int = 0) -> list[int]:
    """Choose a number of examples by a rule; nothing but these examples is read.

    - "random": drawn by the seed.
    - "likelihood": those whose answers the model finds least likely, by the mean log-probability of a token; those
      that it finds most likely have small gradients, and teach it little.
    - "fisher": those whose Fisher information leaves least of that of all uncovered, see `most_informative` and
      `fisher_embeddings`.

    Args:
        model: the model that the examples are for.
        examples: the examples, with their answers.
        count: the number of chosen ones; all if None.
        rule: the rule.
        seed: of the draw, and of the labels and projection of the embeddings.

    Returns:
        The indices of the chosen examples, ascending.
    """
    count = len(examples) if count is None else min(count, len(examples))
    if rule == "random" or count in (0, len(examples)):
        chosen = np.random.default_rng(seed).permutation(len(examples))[:count].tolist()
    elif rule == "likelihood":
        from uwc.models.scoring import score_tokens

        scores = score_tokens(model, examples)
        chosen = np.argsort(scores.mean(scores.logprob, with_end=True), kind="stable")[:count].tolist()
    else:
        chosen = most_informative(fisher_embeddings(model, examples, seed=seed), count)
    return sorted(chosen)


def fisher_embeddings(
    model: Model,
    examples: Sequence[Example],
    *,
    draws: int = DRAWS,
    dimensions: int = DIMENSIONS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """[E, k, r] Fisher embeddings of examples: gradients of the loss in the last hidden state, for labels that the
    model itself draws (arXiv:2106.09675).

    With h_t the [d] input of the output embedding that predicts token t of the answer, and y_tj the j-th of k labels
    drawn from the model's distribution there, ``v_j = k^-1/2 sum_t P' g_tj``, ``g_tj = d(-log p(y_tj | h_t)) / d h_t``.
    So ``sum_j v_j v_j'`` is an unbiased estimate of ``P' I(x) P`` with ``I(x) = sum_t E[g_t g_t']`` the Fisher
    information that the answer has of a shift of all its states; the gradients of different tokens are uncorrelated. P
    is the identity if d is at most r, else a [d, r] matrix of normal numbers with variance 1 / r, the same for all
    examples. The labels of an example depend on the seed and its id alone.

    One pass of the model without its backward, and two products with the output embedding; ``4 E k r`` bytes.

    Args:
        model: the model.
        examples: the examples; the answers are the context of the labels.
        draws: k.
        dimensions: r.
        seed: of labels and projection.

    Raises:
        ModelError: the model is placed over several devices, or its logits are not those of a linear output embedding
            with scales and soft caps.
    """
    import torch

    from uwc.data.batches import collate
    from uwc.models.batching import DEFAULT_TOKEN_BUDGET, results_in_batches, token_budget_of
    from uwc.models.chunks import Columns
    from uwc.models.double import device_of_double
    from uwc.models.head import AnswerLogits
    from uwc.models.placement import require_on_one_device
    from uwc.models.samples import TokenDraw, uniforms_of

    require_on_one_device(model.model, model.name, "the selection by Fisher information")
    encoded = model.encode(examples)
    model.model.eval()
    draw = TokenDraw(temperature=1.0, top_p=1.0)
    onto: dict[str, torch.Tensor] = {}

    def projected(weight: torch.Tensor) -> torch.Tensor:
        """[V, r] the output embedding, projected."""
        if not onto:
            onto["weight"] = weight.float()
            if (width := weight.shape[1]) > dimensions:
                normal = np.random.default_rng(seed).standard_normal((width, dimensions)) / np.sqrt(dimensions)
                onto["weight"] = onto["weight"] @ torch.from_numpy(normal.astype(np.float32)).to(weight.device)
        return onto["weight"]

    def work(group: list[int]) -> Columns:
        batch = collate([encoded[i] for i in group], device=model.device)
        logits = AnswerLogits(model.model, batch)
        if logits.weight is None:
            raise ModelError(
                f"{model.name or type(model.model).__name__} has more between its last states and its logits than a "
                "linear map, scales and soft caps, so that its Fisher information is not known; take select: likelihood"
            )
        weight, counts = projected(logits.weight), np.bincount(batch.rows.cpu().numpy(), minlength=len(group))
        of_example = [uniforms_of(encoded[i].id, seed, draws, n) for i, n in zip(group, counts.tolist(), strict=True)]
        numbers = torch.from_numpy(np.concatenate(of_example, axis=1).T.copy()).to(device_of_double(logits.device))
        found = weight.new_zeros(len(group), draws, weight.shape[1])
        size = max(_LOGITS.get(logits.device.type, _LOGITS_ELSEWHERE) // logits.vocabulary, 1)
        for start in range(0, logits.rows, size):
            part = slice(start, min(start + size, logits.rows))
            z = logits.tile(part, slice(0, logits.vocabulary)).float()
            labels, slopes = draw(z, numbers[part]), logits.slopes(part)
            mean = z.softmax(dim=1)
            gradients = (mean if slopes is None else mean * slopes.float()) @ weight
            of_labels = weight[labels]
            if slopes is not None:
                of_labels = of_labels * slopes.float().gather(1, labels)[..., None]
            found.index_add_(0, batch.rows[part].to(found.device), gradients[:, None] - of_labels)
        return {"embeddings": (found / draws**0.5).cpu().numpy()}

    def content() -> list[object]:
        tokens = [(e.id, e.tokens, e.start, e.end) for e in encoded]
        return ["fisher", str(model.device), draws, dimensions, seed, tokens, model.model]

    embeddings: NDArray[np.float32] = np.zeros((0, draws, 0), dtype=np.float32)
    lengths = [len(e.tokens) for e in encoded]
    with progress.bar(f"Fisher information {model.name}", total=len(encoded)) as advance, torch.no_grad():
        for group, columns in results_in_batches(
            lengths,
            kinds=model.sharing().kinds(lengths),
            token_budget=token_budget_of(model, elsewhere=DEFAULT_TOKEN_BUDGET),
            batch_cost=0,
            work=work,
            content=content,
        ):
            if not len(embeddings):
                embeddings = np.empty((len(encoded), *columns["embeddings"].shape[1:]), dtype=np.float32)
            embeddings[group] = columns["embeddings"]
            advance(len(group))
    return embeddings


def most_informative(embeddings: NDArray[np.floating], count: int, *, ridge: float = RIDGE) -> list[int]:
    """The `count` examples B that greedily minimise ``tr((M_B + lambda I)^-1 F)``, ``M_B = sum_{x in B} I(x)`` (BAIT,
    arXiv:2106.09675).

    ``I(x) = V_x' V_x`` with V_x the [k, r] embedding of x, and ``F = (1/E) sum_x I(x)``. Forward steps add the example
    that lowers the trace most until there are 2 B, backward steps remove the one that raises it least until B are left;
    of equal ones the first. With M the sum so far, a step adds ``-tr((1 + V_x M^-1 V_x')^-1 V_x M^-1 F M^-1 V_x')`` to
    the trace (Woodbury), and the [k, k] products of all examples are updated after each step, which takes O(E k^2 r)
    operations and no inverse of an [r, r] matrix.

    Args:
        embeddings: [E, k, r].
        count: B, at most E.
        ridge: lambda as a multiple of ``tr(F) / r``, so that the choice does not depend on the scale of the embeddings.

    Returns:
        Their indices, ascending.

    Raises:
        ModelError: embeddings are not finite, or all zero.
    """
    examples, _, width = embeddings.shape
    information = _gram(embeddings) / examples
    scale = float(np.trace(information)) / width
    if not 0 < scale < np.inf:
        raise ModelError(
            f"the Fisher information of the examples is {'0' if scale == 0 else 'not finite'}, so that it chooses none "
            "of them; take select: likelihood or random"
        )
    chosen = list(range(examples))
    first = min(_OVERSAMPLED * count, examples)
    if first < examples:
        greedy = _Greedy(embeddings, information, np.eye(width) / (ridge * scale))
        chosen = sorted(greedy.step(add=True) for _ in range(first))
    embeddings = embeddings[chosen]
    inverse = np.linalg.inv(_gram(embeddings) + ridge * scale * np.eye(width))
    greedy = _Greedy(embeddings, information, inverse)
    removed = {chosen[greedy.step(add=False)] for _ in range(first - count)}
    return [i for i in chosen if i not in removed]


class _Greedy:
    """Steps that add an example to the sum M, or remove one, at the least trace of ``M^-1 F``.

    Args:
        embeddings: [E, k, r] V of the examples, each of which may be taken once.
        information: [r, r] F.
        inverse: [r, r] M^-1 before the first step.
    """

    def __init__(self, embeddings: NDArray[np.floating], information: Floats, inverse: Floats) -> None:
        self._embeddings, self._inverse = embeddings, inverse
        self._middle = inverse @ information @ inverse
        self._small = np.empty((*embeddings.shape[:2], embeddings.shape[1]))  # V M^-1 V'
        self._numerators = np.empty_like(self._small)  # V M^-1 F M^-1 V'
        for part, rows in _in_double(embeddings):
            across = rows.swapaxes(1, 2)
            self._small[part] = rows @ self._inverse @ across
            self._numerators[part] = rows @ self._middle @ across
        self._taken = np.zeros(len(embeddings), dtype=bool)

    def step(self, *, add: bool) -> int:
        """The example that is best to add, or to remove, of those that no step has taken."""
        sign = 1.0 if add else -1.0
        weights = np.eye(self._small.shape[1]) + sign * self._small
        gains = np.trace(np.linalg.solve(weights, self._numerators), axis1=1, axis2=2)
        gains[self._taken] = -np.inf if add else np.inf
        best = int(gains.argmax() if add else gains.argmin())
        self._taken[best] = True
        self._update(best, sign * np.linalg.inv(weights[best]))
        return best

    def _update(self, taken: int, weight: Floats) -> None:
        """``M^-1 <- M^-1 - U W U'`` with U = M^-1 V' and W = (1 + V U)^-1 of the example, or W = -(1 - V U)^-1."""
        own = self._embeddings[taken].astype(np.float64)
        u, z = self._inverse @ own.T, self._middle @ own.T
        middle = weight @ self._numerators[taken].copy() @ weight
        uw = u @ weight
        self._inverse -= uw @ u.T
        self._middle += u @ middle @ u.T - uw @ z.T - z @ uw.T
        both = np.concatenate([u, z], axis=1)
        for part, rows in _in_double(self._embeddings):
            c, d = np.split(rows @ both, 2, axis=2)
            cw, across = c @ weight, c.swapaxes(1, 2)
            mixed = cw @ d.swapaxes(1, 2)
            self._small[part] -= cw @ across
            self._numerators[part] += c @ middle @ across - mixed - mixed.swapaxes(1, 2)


def _gram(embeddings: NDArray[np.floating]) -> Floats:
    """[r, r] the sum of ``V' V`` over [E, k, r] embeddings."""
    total: Floats = np.zeros((embeddings.shape[2], embeddings.shape[2]))
    for _, rows in _in_double(embeddings):
        flat = rows.reshape(-1, rows.shape[2])
        total += flat.T @ flat
    return total


def _in_double(embeddings: NDArray[np.floating]) -> Iterator[tuple[slice, Floats]]:
    """The embeddings in double precision, in blocks of bounded memory."""
    size = max(_NUMBERS // max(embeddings[0].size, 1), 1)
    for start in range(0, len(embeddings), size):
        part = slice(start, start + size)
        yield part, embeddings[part].astype(np.float64, copy=False)
