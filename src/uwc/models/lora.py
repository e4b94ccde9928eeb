"""Low-rank adapters through peft (arXiv:2106.09685)."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from uwc import progress
from uwc.errors import ConfigError, ModelError
from uwc.models.block_weights import BlockMatrix, block_matrices, few_tokens, linear_maps
from uwc.models.head import head_of
from uwc.models.target import Target

_REFUSED, _REFUSED_IN = ("out_proj", "conv1d"), ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Modules that peft refuses to adapt, and the types of models: their fast kernels read the weights past the modules."""


def add_adapter(
    target: Target,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str = "all-linear",
    seed: int = 0,
) -> Target:
    """The same model with a low-rank adapter ``W + (alpha / rank) B A`` on its matrices; only A and B are trainable.

    B is zero, so that nothing changes before training. The target's own model is the adapter's base and shares its
    weights; `merge_adapter` gives it back.

    Args:
        target: the model.
        rank: rows of A and columns of B.
        alpha: scale of the update.
        dropout: on the adapter's input.
        targets: names of modules, comma-separated, or "all-linear": every linear map of the text model but its output
            embedding, fused experts included. What peft cannot adapt is named in a note, with its share of the blocks.
        seed: of A.

    Raises:
        ModelError: peft is not installed.
        ConfigError: no module has such a name, or there are fused experts and a dropout, which peft cannot combine.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ModelError("an adapter needs peft; install it with: pip install peft") from None

    def adapted(**chosen: Any) -> Any:
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM", bias="none", **chosen
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(target.model, config).eval()

    if targets == "all-linear":
        return replace(target, model=_adapted_everywhere(target, adapted, dropout))
    try:
        return replace(target, model=adapted(target_modules=[name.strip() for name in targets.split(",")]))
    except ValueError as error:
        raise ConfigError(f"lora: targets = {targets!r}: {str(error).splitlines()[0]}") from None


def _adapted_everywhere(target: Target, adapted: Callable[..., Any], dropout: float) -> Any:
    """The model with an adapter on all that peft can adapt; a note says what is left out of the blocks' matrices."""
    model, matrices = target.model.eval(), block_matrices(target.model)
    listed = {f"{name}.weight": module for name, module in linear_maps(model).items()}
    users = Counter(id(m.weight) for m in listed.values())
    maps = {name: m for name, m in listed.items() if users[id(m.weight)] == 1}  # an update of one would change others
    refused = _REFUSED if model.config.model_type in _REFUSED_IN else ()
    wanted = dict.fromkeys(_maps_of_text(model, maps))
    for matrix in matrices:
        shared = matrix.name in listed and matrix.name not in maps
        if matrix.called and not shared and matrix.name.split(".")[-2] not in refused:
            wanted[matrix.name] = None
        else:
            wanted.pop(matrix.name, None)
    if not set(wanted) <= set(maps):
        if dropout:
            raise ConfigError(
                f"lora: dropout = {dropout:g} does not go with the fused experts of {type(model).__name__}, to which "
                "peft gives an adapter without one; set lora.dropout to 0, or name the modules in lora.targets"
            )
        whole = adapted(target_modules=[], target_parameters=list(wanted))
        try:
            with torch.no_grad():
                whole(input_ids=few_tokens(model), use_cache=False)
            _tell_left_out(target, matrices, wanted)
            return whole
        except (AttributeError, TypeError, RuntimeError):  # some module reads another's parameters past its forward
            whole.unload()
    wanted = {name: None for name in wanted if name in maps}
    _tell_left_out(target, matrices, wanted)
    return adapted(target_modules=[name.removesuffix(".weight") for name in wanted])


def _maps_of_text(model: Any, maps: Mapping[str, nn.Module]) -> list[str]:
    """The weights of the linear maps that a text passes through, other than the output embedding."""
    called: set[nn.Module] = set()
    with ExitStack() as hooks, torch.no_grad():
        for module in maps.values():
            hooks.callback(module.register_forward_pre_hook(lambda module, _args: called.add(module)).remove)
        model(input_ids=few_tokens(model), use_cache=False)
    return [name for name, module in maps.items() if module in called and module is not head_of(model)]


def _tell_left_out(target: Target, matrices: Sequence[BlockMatrix], adapted: Iterable[str]) -> None:
    kept = set(adapted)
    left = [m for m in matrices if m.name not in kept]
    if left:
        share = sum(m.parameter.numel() for m in left) / sum(m.parameter.numel() for m in matrices)
        names = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", m.name) for m in left))
        progress.note(f"lora on {target.name}: peft cannot adapt {share:.1%} of the blocks' matrices: {names}")


def merge_adapter(target: Target) -> Target:
    """The plain model with the adapter's update added to its weights."""
    return replace(target, model=target.model.merge_and_unload().eval()) if has_adapter(target.model) else target


def has_adapter(model: Any) -> bool:
    """Whether the model is one with an adapter that can be switched off."""
    return hasattr(model, "disable_adapter") and hasattr(model, "merge_and_unload")


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """The model without its adapter's update, for the time of the block; a plain model as it is."""
    if not has_adapter(model):
        yield model
        return
    with model.disable_adapter():
        yield model
