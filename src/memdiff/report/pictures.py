"""Images in pages: one as a PNG, and rows of them side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from memdiff.report.figures import DPI, TITLE_SIZE, VERMILION, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = ["ImageRow", "image_grid", "image_png"]


@dataclass(frozen=True)
class ImageRow:
    """One row of :func:`image_grid`.

    Attributes:
        images: Images with shape ``(N, C, H, W)``, ``C`` 1 or 3.
        label: Text at the left of the row.
        captions: Text under each image; empty for none.
        marked: Whether to frame each image, such as those that are copies; empty for none.
    """

    images: Tensor
    label: str = ""
    captions: Sequence[str] = ()
    marked: Sequence[bool] = ()


def _pixels(image: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"image must have shape (C, H, W) with C 1 or 3, got {tuple(image.shape)}."
        )
    low, high = value_range
    values = image.detach().cpu().double().numpy()
    values = np.nan_to_num((values - low) / (high - low)).clip(0.0, 1.0)
    return np.round(
        255 * np.moveaxis(np.broadcast_to(values, (3, *values.shape[1:])), 0, -1)
    ).astype(np.uint8)


def image_png(
    image: Tensor,
    value_range: tuple[float, float] = (0.0, 1.0),
    *,
    max_side: int | None = None,
) -> bytes:
    """One image as a PNG file, pixel by pixel.

    Args:
        image: Image with shape ``(C, H, W)``, ``C`` 1 or 3.
        value_range: Values shown as black and white; values outside are clipped.
        max_side: Shrink the image, with smoothing, to at most so many pixels a side.

    Returns:
        Bytes of the file.

    Raises:
        ValueError: If the shape is another one.
    """
    from PIL import Image

    pixels = _pixels(image, value_range)
    picture = Image.fromarray(pixels[:, :, 0] if image.shape[0] == 1 else pixels)
    if max_side is not None and max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def image_grid(
    rows: Sequence[ImageRow],
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str = "",
    width: float = WIDTH,
) -> Plot:
    """Rows of images, such as samples above their nearest training images.

    Args:
        rows: The rows; they may have different lengths.
        value_range: Values shown as black and white; values outside are clipped.
        title: Title of the figure.
        width: Width in inches.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no image, or images, captions and marks do not match.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = max((row.images.shape[0] for row in rows), default=0)
    if columns == 0:
        raise ValueError("rows hold no image; pass at least one row with at least one image.")
    for index, row in enumerate(rows):
        for name, given in (("captions", row.captions), ("marked", row.marked)):
            if len(given) not in (0, row.images.shape[0]):
                raise ValueError(
                    f"row {index} has {row.images.shape[0]} images and {len(given)} {name}; "
                    f"give {name} for all images or for none."
                )
    label_width = 1.25 if any(row.label for row in rows) else 0.08
    side = (width - label_width - 0.06) / columns
    heights = [side + (0.2 if row.captions else 0.0) + 0.05 for row in rows]
    top = 0.34 if title else 0.06
    height = top + sum(heights) + 0.04
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.set_autoscale_on(False)
    if title:
        axes.text(0.06, 0.2, title, fontsize=TITLE_SIZE, va="center")
    y = top
    gap = min(0.04, 0.06 * side)
    for row, row_height in zip(rows, heights, strict=True):
        if row.label:
            axes.text(
                label_width - 0.1, y + side / 2, row.label, fontsize=9, ha="right", va="center"
            )
        for column, image in enumerate(row.images):
            left, right = (
                label_width + column * side + gap,
                label_width + (column + 1) * side - gap,
            )
            axes.imshow(
                _pixels(image, value_range),
                extent=(left, right, y + side - gap, y + gap),
                interpolation="nearest",
                aspect="auto",
            )
            marked = bool(row.marked) and row.marked[column]
            axes.add_patch(
                Rectangle(
                    (left, y + gap),
                    right - left,
                    side - 2 * gap,
                    fill=False,
                    edgecolor=VERMILION if marked else "#C8C8C8",
                    linewidth=2.0 if marked else 0.5,
                )
            )
            if row.captions:
                axes.text(
                    (left + right) / 2,
                    y + side + 0.085,
                    row.captions[column],
                    fontsize=min(8.0, max(6.0, 12.0 * side)),
                    ha="center",
                    va="center",
                    color="#333333",
                )
        y += row_height
    return figure
