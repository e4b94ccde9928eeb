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
from uwc.models.mixing import say_untied, tied_embeddings
from uwc.models.model import Model

_PROBED = 24
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of the logits after merging, relative to the largest logit."""

_REFUSED, _REFUSED_IN = ("out_proj", "conv1d"), ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Modules that peft refuses to adapt by type of model, as its fast kernels bypass their forward."""


def add_adapter(
    model: Model,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str = "all-linear",
    seed: int = 0,
) -> Model:
    """The same model with a low-rank adapter ``W + (alpha / rank) B A`` on its matrices; only A and B are trainable.

    B is zero, so that the model is unchanged before training. The adapter's base is the given model and shares
    its weights; `merge_adapter` returns a plain model.

    Args:
        model: the model.
        rank: rows of A and columns of B.
        alpha: scale of the update.
        dropout: on the adapter's input.
        targets: names of modules, comma-separated, or "all-linear": all linear maps of the text model except the output
            embedding, including fused experts. A note names those that peft cannot adapt, with their share.
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
            return get_peft_model(model.model, config).eval()

    if targets == "all-linear":
        return replace(model, model=_adapted_everywhere(model, adapted, dropout))
    try:
        return replace(model, model=adapted(target_modules=[name.strip() for name in targets.split(",")]))
    except ValueError as error:
        raise ConfigError(f"lora: targets = {targets!r}: {str(error).splitlines()[0]}") from None


def _adapted_everywhere(model: Model, adapted: Callable[..., Any], dropout: float) -> Any:
    """The model with an adapter on everything that peft can adapt; a note names the matrices left out."""
    module, matrices = model.model.eval(), block_matrices(model.model)
    listed = {f"{name}.weight": module for name, module in linear_maps(module).items()}
    users = Counter(id(m.weight) for m in listed.values())
    maps = {name: m for name, m in listed.items() if users[id(m.weight)] == 1}  # a shared weight would change others
    refused = _REFUSED if module.config.model_type in _REFUSED_IN else ()
    wanted = dict.fromkeys(_maps_of_text(module, maps))
    for matrix in matrices:
        shared = matrix.name in listed and matrix.name not in maps
        if matrix.called and not shared and matrix.name.split(".")[-2] not in refused:
            wanted[matrix.name] = None
        else:
            wanted.pop(matrix.name, None)
    if not set(wanted) <= set(maps):
        if dropout:
            raise ConfigError(
                f"lora: dropout = {dropout:g} does not go with the fused experts of {type(module).__name__}, to which "
                "peft gives an adapter without one; set lora.dropout to 0, or name the modules in lora.targets"
            )
        whole = adapted(target_modules=[], target_parameters=list(wanted))
        try:
            with torch.no_grad():
                whole(input_ids=few_tokens(module), use_cache=False)
            _tell_left_out(model, matrices, wanted)
            return whole
        except (AttributeError, TypeError, RuntimeError):  # a module reads another's parameters directly
            whole.unload()
    wanted = {name: None for name in wanted if name in maps}
    _tell_left_out(model, matrices, wanted)
    return adapted(target_modules=[name.removesuffix(".weight") for name in wanted])


def _maps_of_text(model: Any, maps: Mapping[str, nn.Module]) -> list[str]:
    """The names of the linear maps in the path of a text, except the output embedding."""
    called: set[nn.Module] = set()
    with ExitStack() as hooks, torch.no_grad():
        for module in maps.values():
            hooks.callback(module.register_forward_pre_hook(lambda module, _args: called.add(module)).remove)
        model(input_ids=few_tokens(model), use_cache=False)
    return [name for name, module in maps.items() if module in called and module is not head_of(model)]


def _tell_left_out(model: Model, matrices: Sequence[BlockMatrix], adapted: Iterable[str]) -> None:
    kept = set(adapted)
    left = [m for m in matrices if m.name not in kept]
    if left:
        share = sum(m.parameter.numel() for m in left) / sum(m.parameter.numel() for m in matrices)
        names = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", m.name) for m in left))
        progress.note(f"lora on {model.name}: peft cannot adapt {share:.1%} of the blocks' matrices: {names}")


def merge_adapter(model: Model, *, keep: bool = False) -> Model:
    """The plain model with the adapter's update added to its weights; its logits are equal up to rounding.

    If the adapter changes a weight that is shared between modules, each module first gets its own copy: tied embeddings
    are untied, also in the configuration. The logits of a few tokens are compared before and after.

    Args:
        model: the model; a plain one is returned unchanged.
        keep: merge into a copy, and leave the adapter's base unchanged.

    Raises:
        ModelError: the adapter cannot be merged, or the merged model has other logits.
    """
    if not has_adapter(model.model):
        return model
    module = copy.deepcopy(model.model) if keep else model.model
    kind = str(module.active_peft_config.peft_type.value)
    before = _probe(module)
    _own_shared_weights(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of peft, about ties that are no more
            merged = module.merge_and_unload().eval()
    except Exception as error:  # peft raises many kinds
        raise _unmergeable(model, kind, " ".join(str(error).split())[:120]) from error
    if merged.config.get_text_config().tie_word_embeddings and not tied_embeddings(merged):
        say_untied(merged)
    for name, shared in merged.get_expanded_tied_weights_keys(all_submodels=True).items():
        if merged.get_parameter(name) is not merged.get_parameter(shared):
            raise _unmergeable(model, kind, f"it changes {name!r}, which {type(merged).__name__} ties to {shared!r}")
    after = _probe(merged)
    off, largest = float((after - before).abs().max()), float(before.abs().max())
    if bool(before.isfinite().all()) and not off <= _TOLERANCE.get(merged.dtype, 1e-4) * largest:
        raise _unmergeable(model, kind, f"the merged model's logits lie up to {off:.3g} away")
    return replace(model, model=merged)


def _unmergeable(model: Model, kind: str, reason: str) -> ModelError:
    return ModelError(
        f"{model.name}: an adapter of kind {kind} cannot be merged into its base ({reason}), which mixing, training "
        "and attacks need; it can be scored"
    )


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """[1, n, V] float32 logits for a few tokens, spread over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    tokens = torch.linspace(0, size - 1, min(_PROBED, size)).long()[None].to(model.device)
    training = model.training
    logits: Tensor = model.eval()(input_ids=tokens, use_cache=False).logits.float()
    model.train(training)
    return logits


def _own_shared_weights(model: Any) -> None:
    """Give each module of a peft model's base its own copy of shared weights that an adapter changes, or that
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
    """Whether the model has an adapter that can be disabled."""
    return hasattr(model, "disable_adapter") and hasattr(model, "active_peft_config")


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """While open, the model without its adapter's update; a plain model is returned unchanged."""
    if not has_adapter(model):
        yield model
        return
    with model.disable_adapter():
        yield model
