"""Shared weights of two modules, in particular tied embeddings, and untying."""

from typing import Any

from torch import Tensor, nn

from uwc.errors import ModelError


def tied_groups(model: Any) -> dict[str, list[str]]:
    """Each distinct tensor of the model's state -> all its names."""
    groups: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return {names[0]: names for names in groups.values()}


def tied_embeddings(model: Any) -> bool:
    """Whether the output embedding is the input embedding."""
    if not hasattr(model, "get_input_embeddings"):
        return False
    weights = [getattr(end, "weight", None) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    return weights[0] is not None and weights[0] is weights[1]


def untie_embeddings(model: Any) -> None:
    """Give the output embedding its own copy of the weights, in place, also in the configuration."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    say_untied(model)


def say_untied(model: Any) -> None:
    """Set the configuration to untied embeddings, so that transformers does not tie them again."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def require_unquantised(model: Any, name: str) -> None:
    """Raise ModelError if the loaded weights are quantised, so that they can be neither trained nor changed."""
    if getattr(model.config, "quantization_config", None):
        raise ModelError(f"{name} is quantised; training and attacks on weights need the weights before quantisation")


def embedding_names(model: Any) -> list[str]:
    """The names of the input and output embeddings' weights in the model's state, and of a bias of the latter."""
    ends = {id(m) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    return [
        f"{name}.{part}"
        for name, module in model.named_modules(remove_duplicate=False)
        if id(module) in ends
        for part in ("weight", "bias")
        if isinstance(getattr(module, part, None), Tensor)
    ]
