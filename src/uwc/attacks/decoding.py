"""Attacks on decoding: repeated sampling and beam search."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.attacks.surrogate import Wrapped
from uwc.errors import ModelError
from uwc.models.block_weights import few_tokens
from uwc.models.contrast import ContrastModel
from uwc.models.head import unwrapped
from uwc.models.model import Model

_DECODING = {
    "kind": "decoding",
    "touches_weights": False,
    "needs": (),
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
}


class DecodedBy(Wrapped):
    """A model that generates with fixed settings; its forward is unchanged.

    Args:
        model: the model.
        settings: fields of transformers' GenerationConfig.
        seed: of the draws; global random state is neither read nor changed.

    Raises:
        ModelError: the model is a contrast of two, which generates greedily only.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], *, seed: int = 0) -> None:
        if isinstance(unwrapped(model), ContrastModel):
            raise ModelError("a contrast of two models generates greedily only; take its base or its reinforced model")
        super().__init__(model)
        self._settings = dict(settings)
        self._seed = seed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        return self.inner(*args, **kwargs)

    def generate(self, *, generation_config: Any, **kwargs: Any) -> Any:
        """The model's generation, with these settings."""
        config = copy.deepcopy(generation_config)
        config.update(**self._settings)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            return self.inner.generate(generation_config=config, **kwargs)


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
    settings = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    for number in range(samples):
        module = DecodedBy(model.model, settings, seed=seed * 1_000_003 + number)
        yield Attacked(replace(model, model=module), label=f"sample {number + 1}", effort=number + 1)


@attacks.register("beam_search", source="arXiv:2012.07805", effort="beams", **_DECODING)
def beam_search(model: Model, _data: AttackData, *, beams: Annotated[int, Field(ge=2)] = 5) -> Iterator[Attacked]:
    """Answer with the most likely sequence of a beam search.

    Caches of recurrent and hybrid models are not used, since transformers does not reorder all of them by beam.

    Args:
        model: the model.
        beams: the number of beams.
    """
    settings = {"num_beams": beams, "use_cache": _caches_keys_and_values(model.model)}
    yield Attacked(replace(model, model=DecodedBy(model.model, settings)), effort=beams)


@torch.no_grad()
def _caches_keys_and_values(model: Any) -> bool:
    """Whether a model's cache has only keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    cache: Any = getattr(model.eval()(input_ids=few_tokens(model), use_cache=True), "past_key_values", None)
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in known for layer in cache.layers)
