"""A plain evaluator that works as the usual codes do; it shares nothing with the code it is compared with.

One pass for each metric, batches in the order of the data set padded to the longest, and log-softmax in float32 over
the whole vocabulary at every position. Extraction strength also by generation: in batches with a binary search over
the prefix, and one example at a time with a scan over word prefixes.
"""

from collections.abc import Callable

import torch
from torch.nn.utils.rnn import pad_sequence

BATCH = 16
Item = tuple[list[int], list[int]]  # prompt, answer without its end token


def log_softmax_of_batches(model, items: list[Item], end: int, device: str):
    """For each example the [T-1, V] log-probabilities, its [T-1] next tokens and where the answer's begin."""
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        texts = [torch.tensor([*prompt, *answer, end]) for prompt, answer in batch]
        ids = pad_sequence(texts, batch_first=True, padding_value=end).to(device)
        mask = pad_sequence([torch.ones_like(t) for t in texts], batch_first=True).to(device)
        logits = model(input_ids=ids, attention_mask=mask).logits
        logprobs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        for row, (prompt, answer) in enumerate(batch):
            stop = len(prompt) + len(answer)
            yield logprobs[row, len(prompt) - 1 : stop], ids[row, len(prompt) : stop + 1]


@torch.no_grad()
def probability(model, items: list[Item], end: int, device: str) -> list[float]:
    result = []
    for logprobs, targets in log_softmax_of_batches(model, items, end, device):
        result.append(float(logprobs.gather(1, targets[:, None]).mean().exp()))
    return result


@torch.no_grad()
def exact_memorization(model, items: list[Item], end: int, device: str) -> list[float]:
    result = []
    for logprobs, targets in log_softmax_of_batches(model, items, end, device):
        result.append(float((logprobs[:-1].argmax(dim=-1) == targets[:-1]).float().mean()))
    return result


@torch.no_grad()
def extraction_strength(model, items: list[Item], end: int, device: str) -> list[float]:
    result = []
    for logprobs, targets in log_softmax_of_batches(model, items, end, device):
        predicted, true = logprobs[:-1].argmax(dim=-1), targets[:-1]
        k = 0
        while k < len(true) and not torch.equal(predicted[k:], true[k:]):
            k += 1
        result.append(1 - k / len(true))
    return result


@torch.no_grad()
def min_k(model, items: list[Item], end: int, device: str) -> list[float]:
    result = []
    for logprobs, targets in log_softmax_of_batches(model, items, end, device):
        values = logprobs.gather(1, targets[:, None])[:-1, 0]
        result.append(-float(values.sort().values[: max(1, int(0.4 * len(values)))].mean()))
    return result


@torch.no_grad()
def min_k_plus_plus(model, items: list[Item], end: int, device: str) -> list[float]:
    result = []
    for logprobs, targets in log_softmax_of_batches(model, items, end, device):
        chances = logprobs.exp()
        mu = (chances * logprobs).sum(dim=-1)
        variance = (chances * logprobs.square()).sum(dim=-1) - mu.square()
        values = logprobs.gather(1, targets[:, None])[:, 0]
        values = ((values - mu) / variance.clamp_min(1e-6).sqrt())[:-1]
        result.append(-float(values.sort().values[: max(1, int(0.4 * len(values)))].mean()))
    return result


METRICS: dict[str, Callable] = {
    "probability": probability,
    "exact_memorization": exact_memorization,
    "extraction_strength": extraction_strength,
    "mia_min_k": min_k,
    "mia_min_k_plus_plus": min_k_plus_plus,
}


def continue_from(model, prefixes: list[list[int]], new_tokens: int, device: str) -> list[list[int]]:
    """Greedy continuations of one batch, padded on the left; they never stop early."""
    width = max(len(p) for p in prefixes)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prefixes], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prefixes], device=device)
    output = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
        pad_token_id=0, use_cache=True,
    )  # fmt: skip
    return output[:, width:].tolist()


@torch.no_grad()
def extraction_strength_by_search(model, items: list[Item], device: str, batch: int = 50) -> list[float]:
    """Batched generation and a binary search over the prefix's length."""
    result = []
    for first in range(0, len(items), batch):
        part = items[first : first + batch]
        low, high = [0] * len(part), [len(answer) for _, answer in part]
        while any(a < b for a, b in zip(low, high, strict=True)):
            middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
            prefixes = [prompt + answer[:k] for (prompt, answer), k in zip(part, middle, strict=True)]
            longest = max(len(answer) - k for (_, answer), k in zip(part, middle, strict=True))
            continued = continue_from(model, prefixes, max(longest, 1), device)
            for i, (_, answer) in enumerate(part):
                if low[i] < high[i]:
                    matches = continued[i][: len(answer) - middle[i]] == answer[middle[i] :]
                    low[i], high[i] = (low[i], middle[i]) if matches else (middle[i] + 1, high[i])
        result += [1 - k / len(answer) for k, (_, answer) in zip(high, part, strict=True)]
    return result


@torch.no_grad()
def extraction_strength_by_words(model, items: list[Item], device: str, words: Callable) -> list[float]:
    """One example at a time, one generation for each prefix of whole words, until one gives the rest."""
    result = []
    for prompt, answer in items:
        starts = words(answer)
        found = len(answer)
        for k in starts:
            rest = answer[k:]
            if continue_from(model, [prompt + answer[:k]], len(rest), device)[0] == rest:
                found = k
                break
        result.append(1 - found / len(answer))
    return result
