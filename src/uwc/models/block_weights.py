"""The weight matrices of a model's transformer blocks, found by tracing its matrix products."""

from bisect import bisect, insort
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from uwc.errors import ModelError
from uwc.models.contrast import ContrastModel
from uwc.models.head import unwrapped
from uwc.models.quantised import REMEDY
from uwc.models.states import blocks

LEAST_SHARE = 0.95
"""The least share of the intended weights that an operation must reach."""
_TOKENS = 16  # of the traced forward pass


@dataclass(frozen=True)
class BlockMatrix:
    """A parameter that holds one matrix, or several of one shape, that map inputs to outputs.

    Attributes:
        name: of the parameter in the model.
        parameter: the parameter.
        rows: of one matrix, as stored.
        columns: of one matrix, as stored.
        transposed: whether it is stored as [in, out], as in GPT-2, and not as [out, in].
        called: False if the model multiplies by the parameter without calling its module, so that a change of the
            module's forward has no effect.
    """

    name: str
    parameter: Tensor
    rows: int
    columns: int
    transposed: bool
    called: bool

    @property
    def matrices(self) -> list[Tensor]:
        """Views [out, in] of its matrices, one for each expert or head where it holds several."""
        return self.of(self.parameter.detach())

    def of(self, like: Tensor) -> list[Tensor]:
        """Views [out, in] of another tensor of the parameter's shape."""
        stored = like.view(-1, self.rows, self.columns)
        return list((stored.mT if self.transposed else stored).unbind())


def block_parameters(model: Any) -> dict[str, Tensor]:
    """Name -> every parameter in the text model's blocks. Raises ModelError if the model has no list of blocks."""
    return {name: p for prefix, part in _text_models(model) for name, p in _parameters(part, prefix)}


def block_matrices(model: Any) -> list[BlockMatrix]:
    """The matrices by which the text model's blocks multiply, in the order of the model's parameters.

    Includes linear maps, GPT-2's transposed ones, fused experts, routers and everything else in a matrix product. A
    forward pass over a few tokens is traced; each product shows the matrix and which of its sides is the input.
    Excludes parameters in no product (norms, biases, convolution kernels, decay rates), embeddings, and the other
    towers of a multimodal model. Linear maps that these tokens do not reach (experts that are modules) are included.

    Raises:
        ModelError: the model has no list of blocks, has its weights packed as integers, or more than 5 % of the
            parameters of its blocks are of unknown use, as these tokens did not reach them.
    """
    return [matrix for prefix, part in _text_models(model) for matrix in _matrices_of(part, prefix)]


def linear_maps(model: nn.Module) -> dict[str, Any]:
    """Name -> the modules that are linear maps with a weight: `nn.Linear`, and GPT-2's `Conv1D`."""
    from transformers.pytorch_utils import Conv1D  # a study is planned without transformers

    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def few_tokens(model: Any) -> Tensor:
    """[1, T] ids of a few tokens, for a forward pass that is only traced."""
    tokens = torch.arange(_TOKENS, device=next(model.parameters()).device)
    return tokens[None] % model.config.get_text_config().vocab_size  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Product:
    """One matrix product with a parameter as a factor.

    Attributes:
        name: of the parameter.
        place: the element of the parameter at which the factor begins.
        factor: [b, in, out] the view of the parameter.
        inputs: [b, n, in] the other factor.
    """

    name: str
    place: int
    factor: Tensor
    inputs: Tensor


def inputs_of(matrix: BlockMatrix, product: Product) -> Iterator[tuple[int, slice, Tensor]]:
    """(The number of a matrix of the parameter, the part of its inputs, [n, part] the inputs) for each in a product."""
    number, place = divmod(product.place, matrix.rows * matrix.columns)
    first = place // matrix.columns if matrix.transposed else place % matrix.columns
    for i, inputs in enumerate(product.inputs):
        yield number + i, slice(first, first + inputs.shape[1]), inputs


@contextmanager
def watching_products(
    model: Any, parameters: Mapping[str, Tensor], see: Callable[[Product], None]
) -> Iterator["_Watch"]:
    """While open, `see` is called with every matrix product of a parameter.

    The model is in eval mode, without gradients, and computes fused experts one by one.

    Args:
        model: the model.
        parameters: name -> the traced parameters.
        see: called with each product.
    """
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    fused = [c for c in configs.values() if getattr(c, "_experts_implementation", None) not in (None, "eager")]
    before = [config._experts_implementation for config in fused]
    was_training = model.training
    model.eval()
    try:
        for config in fused:
            config._experts_implementation = "eager"
        with torch.no_grad(), _Watch(parameters, see) as watch:
            yield watch
    finally:
        for config, implementation in zip(fused, before, strict=True):
            config._experts_implementation = implementation
        model.train(was_training)


_FACTORS = {  # operation -> where its two factors stand among its arguments
    "aten.mm": (0, 1),
    "aten.bmm": (0, 1),
    "aten.mv": (0, 1),
    "aten.addmm": (1, 2),
    "aten.baddbmm": (1, 2),
    "aten.addmv": (1, 2),
}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Traces operations below autograd, where few kinds of products remain, and finds parameters by address.

    Attributes:
        used: names of parameters in any operation.
        rearranged: names of those used as a copy in another order, so that inputs and outputs are unknown.
    """

    def __init__(self, parameters: Mapping[str, Tensor], see: Callable[[Product], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see
        self._ranges: list[tuple[str, int, int, str, bool]] = []  # device, first byte, end, name, in another order
        self._copies: list[Tensor] = []
        self.used: set[str] = set()
        self.rearranged: set[str] = set()
        for name, parameter in parameters.items():
            self._add(name, parameter, False)

    def _add(self, name: str, tensor: Tensor, rearranged: bool) -> None:
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        insort(self._ranges, (str(tensor.device), start, start + size, name, rearranged))

    def _find(self, tensor: Any) -> tuple[str, int, bool] | None:
        """Name, first element and order of a view or copy of a parameter."""
        if not isinstance(tensor, Tensor) or not tensor.numel():
            return None
        device, address = str(tensor.device), tensor.data_ptr()
        place = bisect(self._ranges, (device, address, float("inf"), "", False)) - 1
        if place < 0:
            return None
        on, start, end, name, rearranged = self._ranges[place]
        if on != device or address >= end:
            return None
        return name, (address - start) // tensor.element_size(), rearranged

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operation = str(func.overloadpacket)
        if operation == "aten.linear":
            self._tell(args[0].flatten(0, -2), args[1].T)
        elif operation in _FACTORS:
            self._tell(*(args[i] for i in _FACTORS[operation]))
        given, listed = self._find(result), [arg if isinstance(arg, list | tuple) else (arg,) for arg in args]
        tensors = [a for several in listed for a in several if isinstance(a, Tensor)]
        for tensor in tensors:
            found = self._find(tensor)
            if found is None or (given is not None and given[0] == found[0]):  # a view is no copy
                continue
            self.used.add(found[0])
            if len(tensors) == 1 and isinstance(result, Tensor) and result.shape == tensor.shape:
                kept_order = tensor.is_contiguous() and result.is_contiguous()  # such as a weight in another precision
                self._copies.append(result)
                self._add(found[0], result, found[2] or not kept_order)
        return result

    def _tell(self, first: Tensor, second: Tensor) -> None:
        """Report ``first @ second``, either of which may be the weight."""
        if (found := self._find(second)) is not None:
            factor, inputs = second, first
        elif (found := self._find(first)) is not None:
            factor, inputs = first.mT, (second[:, None] if second.dim() < first.dim() else second).mT
        else:
            return
        name, place, rearranged = found
        if rearranged:
            self.rearranged.add(name)
        else:
            self._see(Product(name, place, _batched(factor), _batched(inputs)))


def _batched(factor: Tensor) -> Tensor:
    return factor if factor.dim() == 3 else factor[None]


def _text_models(model: Any) -> list[tuple[str, Any]]:
    """(prefix of its names, model): one, or the two of a contrast."""
    inner = unwrapped(model)
    if isinstance(inner, ContrastModel):
        return [("head.base.", inner.head.base), ("head.reinforced.", inner.head.reinforced)]
    return [("", inner)]


def _parameters(model: Any, prefix: str) -> list[tuple[str, Tensor]]:
    stack = blocks(model)
    inside = {id(p) for p in stack.parameters()}
    return [(f"{prefix}{name}", p) for name, p in model.named_parameters() if id(p) in inside]


def _matrices_of(model: Any, prefix: str) -> list[BlockMatrix]:
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(f"{type(model).__name__} holds its weights packed by a quantisation; {REMEDY}")
    parameters = dict(_parameters(model, prefix))
    many = {n: p for n, p in parameters.items() if sum(size > 1 for size in p.shape) > 1}
    maps = linear_maps(blocks(model)).values()
    linear = {id(m.weight): m for m in reversed(maps)}  # of those that share a weight, the first
    shapes: dict[str, tuple[int, int, bool]] = {}

    def see(product: Product) -> None:
        whole, shape = many[product.name], _stored(many[product.name], product.factor)
        known = shapes.setdefault(product.name, shape)
        if known != shape:  # parts of one matrix were used alone
            shapes[product.name] = (*whole.shape[-2:], known[2])

    holders = {name: model.get_submodule(name.removeprefix(prefix).rpartition(".")[0]) for name in many}
    called: set[nn.Module] = set()
    with ExitStack() as hooks, watching_products(model, many, see) as watch:
        for module in holders.values():
            hooks.callback(module.register_forward_pre_hook(_noting(called)).remove)
        model(input_ids=few_tokens(model), use_cache=False)
    matrices, unknown = [], {}
    for name, parameter in parameters.items():
        if (module := linear.get(id(parameter))) is not None:
            rows, columns = parameter.shape
            reached = module in called or name not in watch.used
            transposed = not isinstance(module, nn.Linear)
            matrices.append(BlockMatrix(name, parameter, rows, columns, transposed, reached))
        elif name in shapes:
            matrices.append(BlockMatrix(name, parameter, *shapes[name], holders[name] in called))
        elif name in many and (name in watch.rearranged or name not in watch.used):
            unknown[name] = parameter
    _require_known(model, matrices, unknown)
    return matrices


def _noting(called: set[nn.Module]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that notes the modules that are called with an input."""
    return lambda module, args: called.add(module) if args else None


def _stored(parameter: Tensor, factor: Tensor) -> tuple[int, int, bool]:
    """(rows, columns, transposed) of a matrix as stored in the parameter, given its [b, in, out] view."""
    (_, inputs, outputs), (_, along_in, along_out) = factor.shape, factor.stride()
    transposed = along_out == 1 and (along_in != 1 or outputs == parameter.shape[-1])
    rows, columns, step = (inputs, outputs, along_in) if transposed else (outputs, inputs, along_out)
    whole = (step == columns or rows == 1) and parameter.numel() % (rows * columns) == 0
    return (rows, columns, transposed) if whole else (*parameter.shape[-2:], transposed)


def _require_known(model: Any, matrices: list[BlockMatrix], unknown: Mapping[str, Tensor]) -> None:
    """Raise ModelError if the use of too many weights is unknown, or that of all."""
    found, left = (sum(p.numel() for p in ps) for ps in ([m.parameter for m in matrices], unknown.values()))
    if left > (1 - LEAST_SHARE) * (found + left):
        raise ModelError(
            f"{type(model).__name__}: {left / (found + left):.0%} of the weights of its blocks are of unknown use, "
            f"such as {next(iter(unknown))!r}, and would not be changed; leave the attack or rule out for this model"
        )
    if not found:
        raise ModelError(
            f"the blocks of {type(model).__name__} hold no matrix that it multiplies by; leave the attack or rule "
            "out for this model"
        )
