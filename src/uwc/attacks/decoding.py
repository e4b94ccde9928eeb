"""Attacks on decoding: repeated sampling and beam search."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.models.endpoint import Draw
from uwc.models.model import Model

_DECODING = {
    "kind": "decoding",
    "touches_weights": False,
    "needs": (),
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
    "rewords": False,
}


@attacks.register("sampling", source="arXiv:2411.12103", effort="samples", **_DECODING)
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


@attacks.register("beam_search", source="arXiv:2012.07805", effort="beams", **_DECODING)
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
