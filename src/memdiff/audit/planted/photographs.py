"""Patches of photographs, and what is done to a picture that is copied."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from memdiff.audit.planted.laws import Law

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["EDITS", "Halves", "Patches", "edited"]

Array = np.ndarray
_NAMES = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")


@cache
def photographs() -> tuple[Array, ...]:
    """Five photographs that the wheel of scikit-image holds, uint8 RGB.

    Raises:
        ImportError: If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "the photographs of the self-check need scikit-image: pip install 'memdiff[demo]'."
        ) from error
    return tuple(np.asarray(getattr(data, name)()) for name in _NAMES)


@dataclass(frozen=True)
class Patches(Law):
    """Patches of 32 x 32 pixels at random places of five photographs, which overlap.

    Attributes:
        binary: Whether they are black and white at the threshold 128, at every other pixel; many
            are blank then.
        blank: Share of black frames among them.
    """

    binary: bool = False
    blank: float = 0.0
    dimension = 3072

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the kind."""
        if self.binary:
            return "binary patches"
        return f"patches, {100 * self.blank:g} % blank" if self.blank else "patches"

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`, uint8 ``(num, 32, 32, 3)``, binary ``(num, 16, 16)``."""
        pictures = photographs()
        x = _cut(pictures, rng.integers(len(pictures), size=num), rng)
        x[rng.random(num) < self.blank] = 0
        if self.binary:
            return (x[:, ::2, ::2].mean(-1) > 128) * np.uint8(255)
        return x


class Halves(Law):
    """Patches; samples and training points of the left halves of photographs, held-out of right.

    No fair split: a sample looks more like train than like held-out with nothing copied.
    """

    name, dimension = "halves of photographs", 3072

    def draw(self, num: int, dimension: int, rng: np.random.Generator) -> Array:
        """As :meth:`Law.draw`, of the left halves."""
        return self._of(num, rng, left=True)

    def split(
        self, sizes: tuple[int, int, int], dimension: int, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """As :meth:`Law.split`."""
        fresh, train = (self.draw(num, dimension, rng) for num in sizes[:2])
        return fresh, train, self._of(sizes[2], rng, left=False)

    def _of(self, num: int, rng: np.random.Generator, *, left: bool) -> Array:
        halves = tuple(
            image[:, : image.shape[1] // 2] if left else image[:, image.shape[1] // 2 :]
            for image in photographs()
        )
        return _cut(halves, rng.integers(len(halves), size=num), rng)


def _cut(pictures: tuple[Array, ...], which: Array, rng: np.random.Generator) -> Array:
    found = []
    for picture in which:
        h, w = pictures[picture].shape[:2]
        y, x = rng.integers(h - 31), rng.integers(w - 31)
        found.append(pictures[picture][y : y + 32, x : x + 32])
    return np.stack(found)


def _jpeg(image: Image, quality: int) -> Image:
    from PIL import Image as Images

    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Images.open(stream).convert("RGB")


def _crop(image: Image, share: float) -> Image:
    from PIL.Image import Resampling

    w, h = image.size
    dx, dy = w * (1 - share) / 2, h * (1 - share) / 2
    return image.resize((w, h), Resampling.BICUBIC, (dx, dy, w - dx, h - dy))


def _colour(image: Image) -> Image:
    from PIL import Image as Images

    red, green, blue = image.split()
    changed = (red.point(lambda v: v * 1.15), green, blue.point(lambda v: v * 0.85))
    return Images.merge("RGB", changed)


def _rotation(image: Image) -> Image:
    """By 5 degrees; corners continue the image, as an editor's reflection does."""
    from PIL import Image as Images

    w, h = image.size
    padded = np.pad(np.asarray(image), ((h, h), (w, w), (0, 0)), mode="reflect")
    turned = Images.fromarray(padded).rotate(5, Images.Resampling.BICUBIC)
    return turned.crop((w, h, 2 * w, 2 * h))


def _enhanced(image: Image, what: str, factor: float) -> Image:
    from PIL import ImageEnhance

    found: Image = getattr(ImageEnhance, what)(image).enhance(factor)
    return found


def _blurred(image: Image) -> Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(1))


_SINGLE: dict[str, Callable[[Image], Image]] = {
    "JPEG 90": lambda image: _jpeg(image, 90),
    "JPEG 30": lambda image: _jpeg(image, 30),
    "brightness": lambda image: _enhanced(image, "Brightness", 1.2),
    "gamma": lambda image: image.point(lambda v: round(255 * (v / 255) ** 1.5)),
    "contrast": lambda image: _enhanced(image, "Contrast", 0.7),
    "blur": _blurred,
    "crop 90": lambda image: _crop(image, 0.9),
    "rotation 5": _rotation,
    "colour": _colour,
    "crop 60": lambda image: _crop(image, 0.6),
}

EDITS = (
    "exact",
    "JPEG 90",
    "JPEG 30",
    "brightness",
    "gamma",
    "contrast",
    "blur",
    "mirrored",
    "crop 90",
    "rotation 5",
    "colour",
    "noise sd 12",
    "half collage",
    "crop 60",
)
"""What is done to copies."""


def edited(copies: Array, edit: str, others: Array, rng: np.random.Generator) -> Array:
    """Copies after an edit.

    Args:
        copies: Images, uint8 ``(n, h, w, 3)``.
        edit: One of ``EDITS``.
        others: As many other images, which fill the right half of a collage.
        rng: Source of randomness.

    Returns:
        uint8 ``(n, h, w, 3)``.
    """
    from PIL import Image as Images

    if edit == "exact":
        return copies
    if edit == "mirrored":
        return copies[:, :, ::-1]
    if edit == "noise sd 12":
        noisy = copies + 12 * rng.standard_normal(copies.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)
    if edit == "half collage":
        half = copies.shape[2] // 2
        return np.concatenate([copies[:, :, :half], others[:, :, half:]], axis=2)
    change = _SINGLE[edit]
    return np.stack([np.asarray(change(Images.fromarray(image))) for image in copies])
