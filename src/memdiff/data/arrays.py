"""From any array to a data set: layout, dtype, range, finiteness."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from memdiff.data.dataset import Dataset, Encoding, Kind
from memdiff.run.memory import require_memory
from memdiff.sources import Rows

__all__ = [
    "Layout",
    "arrange",
    "as_labels",
    "check_finite",
    "from_array",
    "in_range",
    "observed_encoding",
    "scale_to_signed",
]

Layout = Literal["channels_first", "channels_last"]

_CHANNELS = (1, 3, 4)
_FLOAT32_INTEGERS = 2**24


def from_array(
    array: Tensor | np.ndarray,
    *,
    name: str = "data",
    source: str = "tensor",
    labels: Tensor | np.ndarray | None = None,
    value_range: tuple[float, float] | None = None,
    encoding: Encoding | None = None,
    layout: Layout | None = None,
) -> Dataset:
    r"""Make a data set of an array.

    The number of dimensions decides the kind: 1 and 2 are vectors, 3 grey images ``(N, H, W)``,
    4 images, 5 clips. Images become ``(N, C, H, W)``, clips ``(N, F, C, H, W)``; channels are
    taken to be where there are 1, 3 or 4; where both ends could be, so that images are square.

    Values:

    - uint8 and uint16 pixels become float32 in [-1, 1] by :math:`2 v / v_{max} - 1`;
    - pixels of a stated ``value_range`` are mapped to [-1, 1] in the same way;
    - other pixels keep their values; ``encoding`` says which range they fill;
    - vectors keep their values: integers become float32, or float64 above 2^24, where float32
      would merge neighbours; float16 and bfloat16 become float32;
    - float32 and float64 keep their dtype, and share memory with ``array`` where they can.

    Args:
        array: Numbers with shape ``(N, *S)``.
        name: What to call the set in messages.
        source: Where it came from.
        labels: One label per point, ``(N,)`` or ``(N, k)``.
        value_range: Range ``(low, high)`` that the stored pixels span.
        encoding: Range that the values fill, when it is known: nothing is mapped.
        layout: ``"channels_first"`` or ``"channels_last"`` where the shape is ambiguous.

    Returns:
        The data set.

    Raises:
        ValueError: If the array is empty, not numeric, not finite, of ambiguous layout or range,
            or an argument does not fit it.

    Example:
        >>> from_array(np.zeros((2, 8, 8, 3), dtype=np.uint8), value_range=(0, 255))
        Dataset(data: 2 images of shape (3, 8, 8), float32, in [-1, 1])
    """
    title = name if source == "tensor" else f"{name} ({source})"
    tensor, stored = _as_tensor(array, title)
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 4:
        require_memory(4 * tensor.numel(), f"{title} in float32", "give a part of it")
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(
            f"{title} has shape {tuple(tensor.shape)}; expected (N, *S) with at least one point "
            f"and one value per point."
        )
    tensor, kind = arrange(tensor, layout, title)
    if kind == "vectors":
        if value_range is not None:
            raise ValueError(
                f"value_range applies to pixels, but {title} holds vectors; leave it out."
            )
        x = _to_float(tensor)
        check_finite(x, title)
        known = encoding or ("byte" if stored == "uint8" else "free")
    else:
        x, known = _pixels(tensor, stored, value_range, encoding, title)
    return Dataset(
        x=x,
        kind=kind,
        encoding=known,
        stored=stored,
        name=name,
        source=source,
        labels=None if labels is None else as_labels(labels, len(x), title),
    )


def _as_tensor(array: Tensor | np.ndarray, title: str) -> tuple[Tensor, str]:
    """A dense real tensor on the CPU, and the name of the dtype in which it came."""
    if isinstance(array, Tensor):
        stored = str(array.dtype).removeprefix("torch.")
        if array.layout != torch.strided or array.is_quantized or array.is_complex():
            raise ValueError(
                f"{title} is a sparse, quantised or complex tensor ({stored}); give a dense real "
                f"one."
            )
        return array.detach().cpu(), stored
    stored = array.dtype.name
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{title} has dtype {array.dtype}; expected numbers (bool, integer or float)."
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has no long double
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch shares memory, and must not be given what it may not write
    return torch.from_numpy(array), stored


def _to_float(tensor: Tensor) -> Tensor:
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        return tensor.to(torch.float32)
    values = tensor.to(torch.float64)
    exact = float(values.abs().max()) <= _FLOAT32_INTEGERS
    return values.to(torch.float32) if exact else values


def arrange(tensor: Tensor, layout: Layout | None, title: str) -> tuple[Tensor, Kind]:
    """Channels first, and the kind that the number of dimensions implies.

    Args:
        tensor: Points ``(N, *S)``.
        layout: Where the channels are, if it is not to be guessed from the shape.
        title: The set's name in messages.

    Raises:
        ValueError: If the shape is ambiguous or has more than 5 dimensions.
    """
    if layout not in (None, "channels_first", "channels_last"):
        raise ValueError(
            f"layout must be 'channels_first' or 'channels_last', got {layout!r} for {title}."
        )
    if tensor.ndim <= 2:
        return tensor.reshape(tensor.shape[0], -1), "vectors"
    if tensor.ndim == 3:
        return tensor.unsqueeze(1), "images"
    if tensor.ndim > 5:
        raise ValueError(
            f"{title} has shape {tuple(tensor.shape)}; expected at most 5 dimensions: clips "
            f"(N, F, C, H, W)."
        )
    kind: Kind = "images" if tensor.ndim == 4 else "video"
    axis = tensor.ndim - 3
    if (layout or _guess_layout(tensor, axis, title)) == "channels_last":
        tensor = tensor.movedim(-1, axis)
    return tensor, kind


def _guess_layout(tensor: Tensor, axis: int, title: str) -> Layout:
    """The layout in which there are 1, 3 or 4 channels; where both or none, the square one."""
    a, b, c = tensor.shape[axis:]
    first, last = a in _CHANNELS, c in _CHANNELS
    square_first, square_last = b == c, a == b
    if not last or (not first and square_first and not square_last):
        return "channels_first"
    if not first or (square_last and not square_first):
        return "channels_last"
    if square_first and (not square_last or a == 1):
        return "channels_first"
    raise ValueError(
        f"{title} has shape {tuple(tensor.shape)}, whose channels may be first or last; pass "
        f"layout='channels_first' or layout='channels_last'."
    )


def _pixels(
    tensor: Tensor,
    stored: str,
    value_range: tuple[float, float] | None,
    encoding: Encoding | None,
    title: str,
) -> tuple[Tensor, Encoding]:
    if encoding is not None and value_range is not None:
        raise ValueError(f"pass value_range or encoding for {title}, not both.")
    if value_range is None and encoding is None and stored in ("uint8", "uint16"):
        top = int(tensor.to(torch.int32).max()) if stored == "uint16" else int(tensor.max())
        if top <= 1:
            raise ValueError(
                f"{title} holds {stored} images whose largest value is {top}: binary, or almost "
                f"black; pass value_range=(0, 1) or value_range=(0, 255)."
            )
        value_range = (0, 255 if stored == "uint8" else 65535)
    if value_range is None and encoding is None and stored == "bool":
        value_range = (0, 1)
    if value_range is not None:
        check_finite(tensor, title)
        return scale_to_signed(tensor, value_range, title), "signed"
    x = _to_float(tensor).contiguous()
    check_finite(x, title)
    return x, encoding or observed_encoding(x)


def scale_to_signed(tensor: Tensor, value_range: tuple[float, float], title: str) -> Tensor:
    """Map values that span ``value_range`` to [-1, 1]; float64 stays so, all else is float32.

    This is the one place where pixels are scaled, so that equal bytes give equal floats whatever
    the file format.

    Args:
        tensor: Values of any real dtype and shape.
        value_range: ``(low, high)``, finite, ``low < high``.
        title: The set's name in messages.

    Raises:
        ValueError: If the range is not one, or a value lies outside it by more than half its
            width (it is then certainly another range).
    """
    low, high = (float(bound) for bound in value_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range must be (low, high) with low < high, got {value_range} for {title}."
        )
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if (low, high) == (-1.0, 1.0):
        x = tensor.to(dtype).contiguous()  # already there: keep every bit
    else:
        x = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        x.sub_(low).div_((high - low) / 2).sub_(1)
    smallest, largest = (float(value) for value in torch.aminmax(x))
    if smallest < -2.0 or largest > 2.0:
        half = (high - low) / 2
        raise ValueError(
            f"{title} holds values from {low + (smallest + 1) * half:.4g} to "
            f"{low + (largest + 1) * half:.4g}, far outside value_range=({low:g}, {high:g}); pass "
            f"the range that the pixels span."
        )
    return x


def in_range(data: Dataset, value_range: tuple[float, float]) -> Dataset:
    """The same images or clips, whose values span ``value_range``, mapped to [-1, 1].

    Args:
        data: A set in memory.
        value_range: As for :func:`from_array`.

    Raises:
        ValueError: If the points are no pixels, or as :func:`scale_to_signed`.
    """
    if data.kind not in ("images", "video"):
        raise ValueError(
            f"value_range applies to pixels, but {data.title} holds {data.kind}; leave it out."
        )
    return replace(data, x=scale_to_signed(data.x, value_range, data.title), encoding="signed")


def observed_encoding(x: Tensor | Rows) -> Encoding:
    """The range that float pixels fill, by the bulk of the values.

    Generated pixels overshoot, so the bounds are loose; a few wild values do not count.

    Args:
        x: Pixels ``(N, *S)``, of which about a million are looked at.
    """
    # Whole points, not every k-th value: those could all fall on the border of the images.
    points = x[:: max(1, x.numel() // 1_000_000)]
    low, high = np.quantile(points.to(torch.float64).numpy(), [0.001, 0.999])
    if high > 8.0:
        return "byte" if low >= -32.0 and high <= 300.0 else "free"
    if low >= -0.25 and high <= 1.5:
        return "unit"
    return "signed" if low >= -2.0 and high <= 2.0 else "free"


LARGEST = 1e100
"""The largest value of a data set: sums of squares and their ratios stay far from overflow."""


def check_finite(x: Tensor, title: str) -> None:
    """Raise if a value is NaN, infinite, or too large to be squared.

    Args:
        x: Values with shape ``(N, *S)``.
        title: The set's name in messages.

    Raises:
        ValueError: Saying how many values and points are affected, and the first point.
    """
    if not x.is_floating_point():
        return
    block = max(1, (1 << 22) // max(1, x[0].numel()))
    counts = torch.cat(
        [(~part.isfinite()).reshape(len(part), -1).sum(1) for part in x.split(block)]
    )
    bad = counts.nonzero().flatten()
    largest = 0.0 if bad.numel() else max(float(part.abs().max()) for part in x.split(block))
    if largest > LARGEST:
        raise ValueError(
            f"{title} holds values as large as {largest:.3g}, and distances between such points "
            f"overflow: give the data in a larger unit, or mend the values."
        )
    if bad.numel():
        raise ValueError(
            f"{title} has {int(counts.sum())} NaN or infinite values in {bad.numel()} of "
            f"{len(x)} points, first in row {int(bad[0])}; remove these points or mend them."
        )


def as_labels(labels: Tensor | np.ndarray, count: int, title: str) -> Tensor:
    """Labels as int64, or conditions as floats.

    Args:
        labels: ``(N,)`` or ``(N, k)``.
        count: N.
        title: The set's name in messages.

    Raises:
        ValueError: If the shape does not fit, or a value is not finite.
    """
    values, _ = _as_tensor(labels, f"labels of {title}")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or values.shape[0] != count:
        raise ValueError(
            f"labels of {title} have shape {tuple(values.shape)}; expected ({count},) or "
            f"({count}, k), one per point."
        )
    if not values.is_floating_point():
        return values.to(torch.int64)
    values = _to_float(values)
    check_finite(values, f"labels of {title}")
    return values
