"""Half-quadratic quantization (Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog/), written from the article.

A group of weights w shares a scale s and a zero point z: w is about s (q - z), with q in 0 … 2^bits - 1. The
scale spans the group. The zero point is what makes the sum of |w / s - (q - z)|^p small; with p < 1 a few large
errors cost little, so the many small weights decide and not the outliers. Half-quadratic splitting gives the
errors a variable e of their own and solves for both in turn, each exactly, while beta grows:

    e = shrink(w / s - (q - z))     the proximal operator of |e|^p, a soft threshold
    z = mean(q - (w / s - e))       the least squares left over

Errors are in steps of the group, so that beta means the same in every layer. No data is needed.
"""

from __future__ import annotations

import torch

NORM = 0.7
"""The exponent p."""

BETA, GROWTH, TURNS = 10.0, 1.01, 20
"""Weight of the quadratic term at first, its growth with each turn, and the number of turns (the authors')."""

AT_ONCE = 1 << 14
"""Groups that are solved together: what they need stays in the processor's cache."""

PARTS = {8: (8,), 4: (4,), 3: (2, 1), 2: (2,)}
"""How a number of that many bits is cut into parts that fill bytes."""


def quantize(weight: torch.Tensor, bits: int, group_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Levels q, uint8 (rows, columns), and scale and offset, float16 (rows, columns / group_size), of a matrix.

    w is about q · scale + offset; the offset is -s z. Raises ``ValueError`` when columns are no multiple of
    ``group_size``, and for weights that are not finite or do not fit 16 bits.
    """
    rows, columns = weight.shape
    if columns % group_size:
        raise ValueError(f"{columns} columns are no multiple of {group_size}")
    groups = weight.detach().reshape(-1, group_size)
    parts = [_quantize(part.float(), 2**bits - 1) for part in torch.split(groups, AT_ONCE)]
    levels, scale, offset = (torch.cat(each).reshape(rows, -1) for each in zip(*parts, strict=True))
    if not (scale.isfinite().all() and offset.isfinite().all()):
        raise ValueError("holds weights that are not finite, or too large for a scale of 16 bits")
    return levels, scale, offset


def dequantize(levels: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """float32 (rows, columns) of what :func:`quantize` gave."""
    groups = levels.reshape(*scale.shape, -1).float()
    return torch.addcmul(offset[..., None].float(), groups, scale[..., None].float()).reshape(levels.shape)


def _quantize(groups: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Levels (n, size), scale and offset (n, 1) of float32 groups (n, size), with the scale and offset as stored."""
    low, high = groups.aminmax(dim=1, keepdim=True)
    scale = ((high - low) / top).half()
    scale[scale == 0] = 1  # all weights of the group are the same: the offset says which
    wide = scale.float()
    zero = solve(groups / wide, -low / wide, top)
    offset = (-zero * wide).half()
    levels = ((groups - offset.float()) / wide).round_().clamp_(0, top)
    return levels.byte(), scale, offset


def solve(weights: torch.Tensor, zero: torch.Tensor, top: int) -> torch.Tensor:
    """The best zero points (n, 1) that were met for ``weights`` (n, size) in steps, from ``zero`` on."""
    best, least = zero, torch.full_like(zero, torch.inf)
    for turn in range(TURNS + 1):
        levels = (weights + zero).round_().clamp_(0, top)
        error = weights - levels + zero
        size = error.abs().clamp_min_(1e-6)
        powers = size.pow(NORM)
        cost = powers.sum(dim=1, keepdim=True)
        best, least = torch.where(cost < least, zero, best), torch.minimum(cost, least)
        kept = (size - powers / (size * (BETA * GROWTH**turn))).clamp_min_(0) * error.sign()
        zero = (levels - weights + kept).mean(dim=1, keepdim=True)
    return best


def pack(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 (rows, columns · bits / 8) of levels (rows, columns); columns are a multiple of 8.

    Byte k of a part holds the columns k, k + n, k + 2n … of n bytes, the lowest bits first. Three bits are a
    part with the two lower bits and one with the highest.
    """
    rows, columns = levels.shape
    parts, done = [], 0
    for width in PARTS[bits]:
        lanes = ((levels >> done) & (2**width - 1)).reshape(rows, 8 // width, -1)
        whole = torch.zeros(rows, columns * width // 8, dtype=torch.uint8, device=levels.device)
        for lane in range(8 // width):
            whole |= lanes[:, lane] << lane * width
        parts.append(whole)
        done += width
    return torch.cat(parts, dim=1)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Levels (rows, columns), the inverse of :func:`pack`."""
    columns = packed.shape[1] * 8 // bits
    levels, start, done = None, 0, 0
    for width in PARTS[bits]:
        part = packed[:, start : start + columns * width // 8]
        lanes = torch.cat([(part >> lane * width) & (2**width - 1) for lane in range(8 // width)], dim=1)
        levels = lanes if levels is None else levels | lanes << done
        start, done = start + part.shape[1], done + width
    assert levels is not None
    return levels
