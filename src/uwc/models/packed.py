"""Weights that GPTQ or AWQ packed as integers, unpacked from the files of a checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from uwc.errors import ModelError

if TYPE_CHECKING:
    from uwc.models.weights import WeightFiles

_WORD = 32
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output, of 8, of each 4 bits of a word of AWQ, from the lowest bits on."""
_BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}
_FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}


def is_unpacked_here(settings: Mapping[str, Any]) -> bool:
    """Whether weights with these settings of quantisation are unpacked here: GPTQ in both versions of its format, with
    one number of bits for all weights, or AWQ in the format ``gemm``."""
    method = str(settings.get("quant_method"))
    if method not in _FORMATS or settings.get("dynamic") or settings.get("backend") == "llm-awq":
        return False
    return settings.get("bits") in _BITS[method] and _format(settings) in _FORMATS[method]


def _format(settings: Mapping[str, Any]) -> str:
    named = [settings.get(key) for key in ("checkpoint_format", "format", "version")]
    default = "gemm" if settings.get("quant_method") == "awq" else "gptq"
    return str(next((name for name in named if name), default)).lower()


def unpack_integers(words: Tensor, bits: int, *, dim: int) -> Tensor:
    """The unsigned integers of a stream of bits along a dimension, which begins with the lowest bits of its first word.

    Args:
        words: int32, n along `dim`.
        bits: of an integer, which may lie in two words.
        dim: the dimension.

    Returns:
        int64, ``32 n // bits`` along `dim`.
    """
    stream = words.movedim(dim, -1).long() & (2**_WORD - 1)
    first = torch.arange(stream.shape[-1] * _WORD // bits) * bits
    word, shift = first // _WORD, first % _WORD
    following = torch.nn.functional.pad(stream, (0, 1))[..., word + 1] << (_WORD - shift)
    integers: Tensor = (stream[..., word] >> shift | following) & (2**bits - 1)
    return integers.movedim(-1, dim)


def unpack_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, groups: Tensor, *, bits: int, minus_one: bool = True
) -> Tensor:
    """``s (q - z)`` of a matrix that GPTQ packed.

    Args:
        qweight: [in bits / 32, out] int32: q, input after input.
        qzeros: [G, out bits / 32] int32: z of each group of inputs, output after output.
        scales: [G, out] s.
        groups: [in] the group of each input.
        bits: of q and z.
        minus_one: whether z - 1 is stored, modulo 2^bits, as in the first version of the format.

    Returns:
        [out, in] float32.
    """
    q = unpack_integers(qweight, bits, dim=0)
    z = unpack_integers(qzeros, bits, dim=1)[:, : q.shape[1]] + minus_one
    return _dequantised(q, z % 2**bits, scales, groups)


def unpack_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """``s (q - z)`` of a matrix that AWQ packed in its format ``gemm``, with 4 bits.

    Args:
        qweight: [in, out / 8] int32: q of 8 outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on.
        qzeros: [G, out / 8] int32: z of each group of inputs.
        scales: [G, out] s.
        groups: [in] the group of each input.

    Returns:
        [out, in] float32.
    """

    def in_order(words: Tensor) -> Tensor:
        found: Tensor = unpack_integers(words, 4, dim=1).view(len(words), -1, len(_ORDER))
        return found[..., torch.tensor(_ORDER).argsort()].flatten(1)

    return _dequantised(in_order(qweight), in_order(qzeros), scales, groups)


def _dequantised(q: Tensor, z: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """[out, in] from q [in, out] and, for each group of inputs, z and the scales [G, out]."""
    return ((q - z[groups]) * scales.float()[groups]).T.contiguous()


def unpacked_weights(files: "WeightFiles", settings: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Name -> every weight of a checkpoint that `is_unpacked_here`; those that were packed in a dtype.

    Raises:
        ModelError: no weight is packed, or a part of one is missing or of another shape.
    """
    packed = [name.removesuffix("qweight") for name in files.shapes if name.endswith(".qweight")]
    if not packed:
        raise ModelError(
            f"{files.path}: config.json has a quantization_config ({settings['quant_method']}), and none of the "
            "weights is packed (.qweight); remove it, or fetch the checkpoint again"
        )
    parts = {f"{module}{part}" for module in packed for part in ("qweight", "qzeros", "scales", "g_idx")}
    found = {name: files.read(name) for name in files.shapes if name not in parts}
    for module in packed:
        try:
            found[f"{module}weight"] = _unpacked(files, module, settings).to(dtype)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{files.path}: {module}qweight does not fit its qzeros, scales and settings (bits = "
                f"{settings.get('bits')}, group_size = {settings.get('group_size')}); fetch the checkpoint again"
            ) from error
    return found


def _unpacked(files: "WeightFiles", module: str, settings: Mapping[str, Any]) -> Tensor:
    qweight, qzeros, scales = (files.read(f"{module}{part}") for part in ("qweight", "qzeros", "scales"))
    bits, size, of_awq = int(settings["bits"]), int(settings.get("group_size", 128)), settings["quant_method"] == "awq"
    inputs = len(qweight) if of_awq else len(qweight) * _WORD // bits
    groups = torch.arange(inputs) // (size if size > 0 else inputs)
    if f"{module}g_idx" in files.shapes:
        groups = files.read(f"{module}g_idx").long()
    if len(groups) != inputs or int(groups.max()) + 1 != len(scales):
        raise IndexError(f"{len(scales)} groups of {inputs} inputs")
    if of_awq:
        return unpack_awq(qweight, qzeros, scales, groups)
    return unpack_gptq(qweight, qzeros, scales, groups, bits=bits, minus_one=_format(settings) != "gptq_v2")
