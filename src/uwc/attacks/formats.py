"""The formats to which the weights of deployed models are rounded, simulated: numbers keep their dtype."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as Dtype


def round_to_nearest(weight: "Tensor", *, bits: int, group_size: int) -> "Tensor":
    """``s round(w / s)`` with ``s = max |w| / (2^(bits-1) - 1)`` over each group: symmetric round-to-nearest.

    Args:
        weight: [out, in].
        bits: of the signed integers.
        group_size: inputs that share s; 0 is all of them.

    Returns:
        [out, in] in the weight's dtype, computed in float32.
    """
    import torch

    groups = torch.split(weight.float(), group_size or weight.shape[1], dim=1)
    return torch.cat([_on_grid(group, bits) for group in groups], dim=1).to(weight.dtype)


def _on_grid(values: "Tensor", bits: int) -> "Tensor":
    """[..., n] float32 numbers rounded to multiples of ``max |x| / (2^(bits-1) - 1)`` over the last dimension."""
    import torch

    step = values.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (values / step).round() * step, values)


_BELOW = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036)
_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
NF4_LEVELS = (*_BELOW, 0.0, *_ABOVE)
"""The 16 levels of NF4, quantiles of the normal distribution, as float32 numbers."""


def round_to_nf4(weight: "Tensor", *, block_size: int = 64, double: bool = False) -> "Tensor":
    """``s q(w / s)`` with q(x) the nearest of the 16 levels of NF4, the lower of two, and ``s = max |w|`` over a block.

    With double quantization the scales are m + t d((s - m) / t), with m their mean, t the largest |s - m| of 256
    consecutive scales, and d(x) the nearest of 256 dynamic levels (`dynamic_levels`).

    Args:
        weight: [out, in].
        block_size: consecutive weights, output after output, that share s; a remainder is a further block.
        double: whether the scales are quantized too.

    Returns:
        [out, in] in the weight's dtype, computed in float32.

    Source: arXiv:2305.14314; the numbers of bitsandbytes 0.50. Its CPU kernel finds d by a table of 65,536 entries, so
    that about one scale in a thousand, halfway between two levels, is rounded to the other one there.
    """
    import torch

    levels = torch.tensor(NF4_LEVELS, dtype=torch.float32, device=weight.device)
    flat = weight.float().flatten()
    whole = torch.nn.functional.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    scale = whole.abs().amax(dim=1, keepdim=True)
    shares = torch.where(scale > 0, whole / scale, torch.zeros_like(whole))
    rounded = _nearest(shares, levels) * (_quantized_scales(scale.flatten())[:, None] if double else scale)
    return rounded.flatten()[: len(flat)].view(weight.shape).to(weight.dtype)


SCALES = 256
"""Number of consecutive scales that share a scale of their own in double quantization."""


def dynamic_levels() -> "Tensor":
    """[256] the levels of the 8-bit dynamic format, ascending: 0, 1 and ``+-10^(i-6) c`` for i = 0..6, with c the 2^i
    centres of equal parts of 0.1..1.

    Source: arXiv:1511.04561; as in bitsandbytes, float32.
    """
    import torch

    found = [0.0, 1.0]
    for i in range(7):
        ends = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        centres = (10.0 ** (i - 6) * ((ends[1:] + ends[:-1]) / 2)).tolist()
        found += [*centres, *(-centre for centre in centres)]
    return torch.tensor(sorted(found), dtype=torch.float32)


def _quantized_scales(scales: "Tensor") -> "Tensor":
    """[N] the scales of double quantization."""
    import torch

    mean = scales.mean()
    rest = scales - mean
    whole = torch.nn.functional.pad(rest, (0, -len(rest) % SCALES)).view(-1, SCALES)
    largest = whole.abs().amax(dim=1, keepdim=True)
    shares = torch.where(largest > 0, whole * (1 / largest), torch.zeros_like(whole))
    levels = dynamic_levels().to(scales.device)
    return (_nearest(shares, levels) * largest).flatten()[: len(rest)] + mean


def _nearest(values: "Tensor", levels: "Tensor") -> "Tensor":
    """The nearest level to each value, the lower of two."""
    import torch

    return levels[torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)]


def round_inputs(inputs: "Tensor", *, threshold: float) -> "Tensor":
    """``s round(x / s)`` with ``s = max |x| / 127`` over a token's inputs below the threshold; the others unchanged.

    Args:
        inputs: [..., in].
        threshold: the least size of an outlier.

    Returns:
        [..., in] in the inputs' dtype, computed in float32.

    Source: LLM.int8(), arXiv:2208.07339.
    """
    import torch

    given = inputs.float()
    outliers = given.abs() >= threshold
    return torch.where(outliers, given, _on_grid(given.masked_fill(outliers, 0.0), 8)).to(inputs.dtype)


_COLUMNS = 128
"""Inputs whose errors are collected before the weights after them are updated; changes no result but by rounding."""


def gptq(weight: "Tensor", moments: "Tensor", *, bits: int, group_size: int, damp: float) -> "Tensor":
    """Weights rounded input after input, each error compensated by the weights of the inputs that follow.

    With ``H = X^T X + damp mean(diag(X^T X)) I`` and U the upper Cholesky factor of H^-1 (``H^-1 = U^T U``), for j = 0,
    1, ...: ``q_j = s round(w_j / s)``, ``e = (w_j - q_j) / U_jj`` and ``w_k <- w_k - e U_jk`` for k > j. The scale is
    that of `round_to_nearest`, from the group's weights before its first input is rounded; integers are clipped to it.

    Args:
        weight: [out, in].
        moments: [in, in] ``X^T X`` over the inputs of the calibration data; zeros give `round_to_nearest`.
        bits: of the signed integers.
        group_size: inputs that share s; 0 is all of them.
        damp: share of the mean of the diagonal that is added to it, above 0.

    Returns:
        [out, in] in the weight's dtype, computed in float64.

    Source: arXiv:2210.17323, without an order of the inputs by activation.
    """
    import torch

    from uwc.models.double import in_double

    left, most = in_double(weight).clone(), 2 ** (bits - 1) - 1
    inputs = left.shape[1]
    hessian = in_double(moments).clone()
    mean = hessian.diagonal().mean()
    hessian.diagonal().add_(damp * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    rounded, step = torch.empty_like(left), left[:, 0]
    group_size = group_size or inputs
    for start in range(0, inputs, _COLUMNS):
        end = min(start + _COLUMNS, inputs)
        errors = torch.zeros(left.shape[0], end - start, dtype=left.dtype, device=left.device)
        for j in range(start, end):
            if j % group_size == 0:
                stop = min(j + group_size, inputs)
                group = left[:, j:stop]
                if stop > end:  # of these inputs the errors of this part are still to be subtracted
                    late = left[:, end:stop] - errors[:, : j - start] @ factor[start:j, end:stop]
                    group = torch.cat([left[:, j:end], late], dim=1)
                step = group.abs().amax(dim=1) / most
            column = left[:, j]
            on_grid = (column / step).round().clamp(-most, most) * step
            rounded[:, j] = torch.where(step > 0, on_grid, column)
            errors[:, j - start] = (column - rounded[:, j]) / factor[j, j]
            left[:, j + 1 : end] -= errors[:, j - start, None] * factor[j, j + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded.to(weight.dtype).to(weight.device)


def round_asymmetric(weight: "Tensor", *, bits: int, group_size: int) -> "Tensor":
    """``s (clip(round(w / s) + z, 0, 2^bits - 1) - z)`` with ``s = (max w - min w) / (2^bits - 1)`` and
    ``z = round(-min w / s)``, a group's maximum and minimum also over 0.

    Args:
        weight: [out, in].
        bits: of the unsigned integers.
        group_size: inputs of an output that share s and z; 0 is all of them.

    Returns:
        [out, in] in the weight's dtype, computed at least in float32.

    Source: arXiv:2306.00978, as in its code; there a group's range need not have 0, and is at least 1e-5.
    """
    import torch

    most = 2**bits - 1
    given = weight.to(_at_least_float32(weight))
    rounded = []
    for group in torch.split(given, group_size or weight.shape[1], dim=1):
        low = group.amin(dim=1, keepdim=True).clamp(max=0)
        step = (group.amax(dim=1, keepdim=True).clamp(min=0) - low) / most
        zero = (-low / step).round()
        on_grid = (((group / step).round() + zero).clamp(0, most) - zero) * step
        rounded.append(torch.where(step > 0, on_grid, group))
    return torch.cat(rounded, dim=1).to(weight.dtype)


def _at_least_float32(tensor: "Tensor") -> "Dtype":
    import torch

    return torch.promote_types(tensor.dtype, torch.float32)


EXPONENTS = tuple(k / 20 for k in range(20))
"""Of the scales of AWQ, as in its code."""
CUTS = tuple(1 - k / 20 for k in range(10))
"""Shares of the largest weight of a group at which AWQ cuts it, as in its code."""


def awq(
    weights: "Sequence[Tensor]",
    moments: "Tensor",
    sizes: "Tensor",
    *,
    bits: int,
    group_size: int,
    clip: bool,
) -> "list[Tensor]":
    """``Q(W S) S^-1``: weights rounded while those of inputs that are large in the mean are scaled up.

    Q is `round_asymmetric` and S the diagonal of ``s = m^a / sqrt(max m^a min m^a)``, where m is the mean size of each
    input, and m^a is at least 1e-4. Of the exponents a = 0, 0.05, ..., 0.95 (`EXPONENTS`) the first is taken that has
    the least squared error of the outputs, ``tr((W' - W) X^T X (W' - W)^T)``, summed over the matrices. With `clip`
    each group of W S is then cut to ``[-c max |w|, c max |w|]``, with the first of c = 1, 0.95, ..., 0.55 (`CUTS`) that
    has the least squared error of what the group adds to its output.

    Args:
        weights: each [out, in], of linear maps that get the same inputs and so share s.
        moments: [in, in] ``X^T X`` over the inputs of the calibration data; zeros give `round_asymmetric`.
        sizes: [in] the mean of |x|.
        bits: of the unsigned integers.
        group_size: inputs of an output that share the step; 0 is all of them.
        clip: whether weights are cut.

    Returns:
        For each matrix [out, in] in its dtype, computed at least in float32.

    Source: arXiv:2306.00978.
    """
    dtype = _at_least_float32(weights[0])
    given = [weight.to(dtype) for weight in weights]
    moments, sizes = moments.to(dtype), sizes.to(dtype)
    best, scales = float("inf"), sizes.new_ones(len(sizes))
    for exponent in EXPONENTS:
        tried = sizes.pow(exponent).clamp(min=1e-4)
        tried = tried / (tried.max() * tried.min()).sqrt()
        error = 0.0
        for weight in given:
            change = round_asymmetric(weight * tried, bits=bits, group_size=group_size) / tried - weight
            error += float(((change @ moments) * change).sum())
        if error < best:
            best, scales = error, tried
    of_scaled = moments / scales / scales[:, None]
    found = []
    for weight, like in zip(given, weights, strict=True):
        scaled = weight * scales
        if clip:
            scaled = _cut(scaled, of_scaled, bits=bits, group_size=group_size)
        found.append((round_asymmetric(scaled, bits=bits, group_size=group_size) / scales).to(like.dtype))
    return found


def _cut(weight: "Tensor", moments: "Tensor", *, bits: int, group_size: int) -> "Tensor":
    """[out, in] each group cut at the share of its largest weight with which rounding adds the least error."""
    import torch

    size = group_size or weight.shape[1]
    found = []
    for start, group in zip(range(0, weight.shape[1], size), torch.split(weight, size, dim=1), strict=True):
        of_group = moments[start : start + size, start : start + size]
        largest = group.abs().amax(dim=1, keepdim=True)
        best, chosen = torch.full_like(largest, float("inf")), group
        for share in CUTS:
            cut = group.clamp(-share * largest, share * largest)
            change = round_asymmetric(cut, bits=bits, group_size=0) - group
            error = ((change @ of_group) * change).sum(dim=1, keepdim=True)
            chosen = torch.where(error < best, cut, chosen)
            best = torch.minimum(error, best)
        found.append(chosen)
    return torch.cat(found, dim=1)
