"""Attacks on decoding: repeated sampling, beam search and planning."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.errors import ConfigError
from uwc.models.endpoint import Draw
from uwc.models.model import Model

_DECODING = {
    "kind": "decoding",
    "touches_weights": False,
    "budgets": False,
    "trains_on_scored": False,
    "rewords": False,
}


@attacks.register("sampling", source="arXiv:2411.12103", needs=(), effort="samples", check=None, **_DECODING)
def sampling(
    model: Model,
    _data: AttackData,
    *,
    samples: Annotated[int, Field(ge=1)] = 16,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Sample answers; one variant for each sample, so that the worst case is the best of n.

    Args:
        model: the model.
        samples: n; a smaller n gives the first samples of a larger one.
        temperature: of the sampling.
        top_p: draw from the most likely tokens with this total probability.
        seed: of the draws.
    """
    from uwc.attacks.surrogate import DecodedBy

    for draw in draws(samples=samples, temperature=temperature, top_p=top_p, seed=seed):
        settings = {"do_sample": True, "temperature": draw.temperature, "top_p": draw.top_p, "top_k": 0}
        module = DecodedBy(model.model, settings, seed=draw.seed)
        yield Attacked(replace(model, model=module), label=sample_label(draw), effort=draw.number + 1)


def draws(*, samples: int, temperature: float, top_p: float, seed: int) -> list[Draw]:
    """The draws of `sampling`, whose settings these are."""
    return [Draw(number, temperature, top_p, seed * 1_000_003 + number) for number in range(samples)]


def sample_label(draw: Draw) -> str:
    """The label of a sample."""
    return f"sample {draw.number + 1}"


@attacks.register("beam_search", source="arXiv:2012.07805", needs=(), effort="beams", check=None, **_DECODING)
def beam_search(model: Model, _data: AttackData, *, beams: Annotated[int, Field(ge=2)] = 5) -> Iterator[Attacked]:
    """Answer with the most likely sequence of a beam search.

    Caches of recurrent and hybrid models are not used, since transformers does not reorder all of them by beam.

    Args:
        model: the model.
        beams: the number of beams.
    """
    from uwc.attacks.surrogate import DecodedBy

    settings = {"num_beams": beams, "use_cache": _caches_keys_and_values(model.model)}
    yield Attacked(replace(model, model=DecodedBy(model.model, settings)), effort=beams)


def _caches_keys_and_values(model: Any) -> bool:
    """Whether a model's cache has only keys and values."""
    import torch

    from uwc.models.block_weights import few_tokens
    from uwc.models.samples import keys_and_values_only

    with torch.no_grad():
        output = model.eval()(input_ids=few_tokens(model), use_cache=True)
    return keys_and_values_only(getattr(output, "past_key_values", None))


def _check_planning(_data: AttackData, settings: Any) -> None:
    if settings["stride"] > settings["horizon"]:
        raise ConfigError(
            f"attack 'planning': the stride {settings['stride']} is more than the horizon {settings['horizon']}; give "
            "a stride of at most the horizon"
        )


@attacks.register(
    "planning", source="arXiv:2204.03597", needs=("retain",), effort="rollouts", check=_check_planning, **_DECODING
)
def planning(
    model: Model,
    data: AttackData,
    *,
    rollouts: Annotated[int, Field(ge=1)] = 8,
    horizon: Annotated[int, Field(ge=1)] = 8,
    stride: Annotated[int, Field(ge=1)] = 4,
    examples: Annotated[int, Field(ge=1)] | None = 100,
    layer: int | None = None,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
    max_new_tokens: Annotated[int, Field(ge=2)] = 64,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Draw continuations, keep the beginning of that with the largest reward, and plan again to the end of the answer.

    A continuation ``y_1..y_H`` is ranked by ``sum_t r(h_t) + V(h_H)``, the second term unless it has ended, with h_t
    the state that has read y_t, r the log-odds that the token stands in a true answer and not in one of the model's
    own, and V the sum of the rewards that follow in the model's own answers; both are learned from retained questions.
    K continuations of H tokens are drawn for each stride of S: ``K H / S`` tokens for each token of an answer, as many
    as by `sampling` with so many samples, or a beam search with so many beams.

    Args:
        model: the model.
        data: the reward is learned from `retain`.
        rollouts: K, the continuations drawn for each stride.
        horizon: H, their most tokens.
        stride: S, the tokens that are kept; at most H.
        examples: the most retained questions to learn from, drawn by the seed; all if None.
        layer: the block whose output is h, 1..L, or -1..-L from the last; the middle one by default.
        temperature: of the draws.
        top_p: draw from the most likely tokens with this total probability.
        max_new_tokens: the most tokens of the model's own answers to retained questions.
        seed: of the choice and of the draws.

    Raises:
        AttackFailed: the model's own answers to the retained questions are the true ones.
        ModelError: the model has no list of blocks.
    """
    import numpy as np

    from uwc.attacks.planning import PlannedBy, Planning, learn_reward
    from uwc.models.states import blocks, resolve_layer

    depth = resolve_layer(model.model, layer or (len(blocks(model.model)) + 1) // 2)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.retain))[:examples])
    settings = Planning(rollouts, horizon, stride, depth, temperature, top_p, seed)
    reward = learn_reward(
        model,
        [data.retain[i] for i in chosen],
        layer=depth,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    yield Attacked(
        replace(model, model=PlannedBy(model, reward, settings, passages=any(e.raw for e in data.scored))),
        effort=rollouts,
        note=f"{settings.drawn:g} tokens drawn for each token of an answer",
    )
