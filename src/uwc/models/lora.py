"""Low-rank adapters through peft (arXiv:2106.09685), and merging of adapters of any kind."""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from uwc import progress
from uwc.errors import ConfigError, ModelError
from uwc.models.block_weights import BlockMatrix, block_matrices, few_tokens, linear_maps
from uwc.models.head import head_of
from uwc.models.target import Target
from uwc.models.ties import say_untied, tied_embeddings

_PROBED = 24
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Of the largest logit: how far a merged model may lie from the adapter on its base."""

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
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # merge_adapter unties
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


def merge_adapter(target: Target, *, keep: bool = False) -> Target:
    """The plain model with the adapter's update added to its weights; it computes the same up to rounding.

    A weight that the adapter changes in one module and another module shares is given to each as its own before: tied
    embeddings are untied, and the configuration says so. The logits of a few tokens are compared before and after.

    Args:
        target: the model; a plain one is given back as it is.
        keep: whether the adapter's base stays as it is, and a copy is merged.

    Raises:
        ModelError: the adapter cannot be merged, or the merged model does not compute the same.
    """
    if not has_adapter(target.model):
        return target
    model = copy.deepcopy(target.model) if keep else target.model
    kind = str(model.active_peft_config.peft_type.value)
    before = _probe(model)
    _own_shared_weights(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of peft, about ties that are no more
            merged = model.merge_and_unload().eval()
    except Exception as error:  # peft raises many kinds
        raise _unmergeable(target, kind, " ".join(str(error).split())[:120]) from error
    if merged.config.get_text_config().tie_word_embeddings and not tied_embeddings(merged):
        say_untied(merged)
    for name, shared in merged.get_expanded_tied_weights_keys(all_submodels=True).items():
        if merged.get_parameter(name) is not merged.get_parameter(shared):
            raise _unmergeable(target, kind, f"it changes {name!r}, which {type(merged).__name__} ties to {shared!r}")
    after = _probe(merged)
    off, largest = float((after - before).abs().max()), float(before.abs().max())
    if bool(before.isfinite().all()) and not off <= _TOLERANCE.get(merged.dtype, 1e-4) * largest:
        raise _unmergeable(target, kind, f"the merged model's logits lie up to {off:.3g} away")
    return replace(target, model=merged)


def _unmergeable(target: Target, kind: str, reason: str) -> ModelError:
    return ModelError(
        f"{target.name}: an adapter of kind {kind} cannot be merged into its base ({reason}), which mixing, training "
        "and attacks need; it can be scored"
    )


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """[1, n, V] float32 logits for a few tokens from all over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    tokens = torch.linspace(0, size - 1, min(_PROBED, size)).long()[None].to(model.device)
    training = model.training
    logits: Tensor = model.eval()(input_ids=tokens, use_cache=False).logits.float()
    model.train(training)
    return logits


def _own_shared_weights(model: Any) -> None:
    """Give each module of a peft model's base its own copy of weights that it shares and an adapter changes, or that
    replicated layers share."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    changed: set[int] = set()
    for module in model.get_base_model().modules():
        if isinstance(module, BaseTunerLayer):
            changed |= {id(p) for p in module.get_base_layer().parameters()}
        if isinstance(module, AuxiliaryTrainingWrapper):
            changed |= {id(p) for p in module.original_module.parameters()}
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    if getattr(model.active_peft_config, "layer_replication", None):
        changed |= {key for key in owners if key != id(model.get_input_embeddings().weight)}
    for key, places in owners.items():
        for module, name in places[1:] if key in changed else ():
            shared = getattr(module, name)
            setattr(module, name, nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad))


def has_adapter(model: Any) -> bool:
    """Whether the model is one with an adapter that can be switched off."""
    return hasattr(model, "disable_adapter") and hasattr(model, "active_peft_config")


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """The model without its adapter's update, for the time of the block; a plain model as it is."""
    if not has_adapter(model):
        yield model
        return
    with model.disable_adapter():
        yield model
