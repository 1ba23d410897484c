"""Folders of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from memdiff.data.arrays import from_array, scale_to_signed
from memdiff.data.dataset import Dataset
from memdiff.data.reading import natural_order, reading
from memdiff.run.memory import require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "Mode",
    "Size",
    "decode_image",
    "labels_of_folders",
    "load_images",
    "stack_images",
]

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
)  # fmt: skip

Mode = Literal["L", "RGB", "RGBA"]
Size = int | tuple[int, int]

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def load_images(
    folder: Path,
    files: Sequence[Path],
    *,
    name: str = "data",
    size: Size | None = None,
    mode: Mode | None = None,
    value_range: tuple[float, float] | None = None,
) -> Dataset:
    """Decode images into one tensor ``(N, C, H, W)``, float32 in [-1, 1].

    A byte v becomes ``v / 127.5 - 1``, a 16-bit grey value ``v / 32767.5 - 1``; floating-point
    TIFFs keep their values. (Colour images of 16 bits a channel are read at 8.) The orientation
    that a camera recorded (EXIF) is applied. Images are neither cropped nor converted unless
    asked: they must agree in size and mode.

    Args:
        folder: The folder, for the names and the class labels.
        files: Files relative to it, in order, at least one.
        name: What to call the set in messages.
        size: Resize every image to ``(H, W)``, or to a square: bicubic with antialiasing; the
            aspect ratio is not kept.
        mode: Convert to ``"L"`` (grey), ``"RGB"`` or ``"RGBA"`` as ``PIL.Image.convert`` does;
            going to fewer channels drops the alpha channel without blending.
        value_range: Range that floating-point pixels span; they are mapped to [-1, 1].

    Returns:
        The data set; its labels are those of :func:`labels_of_folders`.

    Raises:
        ValueError: If an image is unreadable, truncated, has several pages, an alpha channel or
            a colour model that needs a ``mode``, or differs from the first, or ``value_range``
            is given for pixels of integers.
    """
    data = stack_images(
        _open_each(folder, files, name),
        len(files),
        name=name,
        source=str(folder),
        size=size,
        mode=mode,
        value_range=value_range,
    )
    labels, label_names = labels_of_folders(files)
    return replace(data, labels=labels, label_names=label_names)


def stack_images(
    pictures: Iterable[tuple[str, Image]],
    count: int,
    *,
    name: str = "data",
    source: str = "images",
    size: Size | None = None,
    mode: Mode | None = None,
    value_range: tuple[float, float] | None = None,
) -> Dataset:
    """Decode named, open images into one set; see :func:`load_images`, which has the rules.

    Args:
        pictures: Pairs of a name (the file within ``source``) and an image, one at a time.
        count: How many there are, at least one.
        name: What to call the set in messages.
        source: The folder they are from.
        size: As for :func:`load_images`.
        mode: As for :func:`load_images`.
        value_range: As for :func:`load_images`.
    """
    x = torch.empty(0)
    names: list[str] = []
    first = kind = ""
    for position, (file, image) in enumerate(pictures):
        title = f"{name} ({source}/{file})"
        with reading(title):
            pixels, kind = decode_image(image, title, size=size, mode=mode)
        look = f"{kind} {pixels.shape[2]}x{pixels.shape[1]}"
        if position == 0:
            require_memory(
                4 * count * pixels.numel(),
                f"{name} ({source}): {count} images of {pixels.shape[2]}x{pixels.shape[1]} pixels",
                "give fewer, or smaller ones with size=",
            )
            x, first = torch.empty(count, *pixels.shape), look
        elif look != first:
            remedy = "size=(H, W)"
            if pixels.shape[1:] == x.shape[2:]:
                remedy = "mode='L' (grey) or mode='RGB' (colour)"
            raise ValueError(
                f"{name} ({source}) mixes images (kind, width x height): {names[0]!r} is {first} "
                f"but {file!r} is {look}; pass {remedy} to make them alike."
            )
        x[position] = pixels
        names.append(file)
    if value_range is not None and kind != "float":
        raise ValueError(
            f"value_range= does not apply to {name} ({source}), whose pixels are integers and "
            f"span the range of their type; leave it out."
        )
    data = from_array(
        x,
        name=name,
        source=source,
        value_range=value_range,
        encoding=None if kind == "float" else "signed",
        layout="channels_first",
    )
    stored = "float32" if kind == "float" else "uint16" if kind == "16-bit grey" else "uint8"
    return replace(data, stored=stored, names=tuple(names))


def labels_of_folders(files: Sequence[Path]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Class labels from first-level folders, if every file lies in one and there are two or more.

    Args:
        files: Paths relative to the data folder.

    Returns:
        int64 labels with shape ``(N,)`` and the folders' names in natural order, or None and
        nothing.
    """
    folders = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    names = sorted({folder for folder in folders if folder}, key=lambda f: natural_order(Path(f)))
    if None in folders or len(names) < 2:
        return None, ()
    code = {folder: position for position, folder in enumerate(names)}
    return torch.tensor([code[folder] for folder in folders if folder]), tuple(names)


def _open_each(folder: Path, files: Sequence[Path], name: str) -> Iterator[tuple[str, Image]]:
    from PIL import Image

    for file in files:
        title = f"{name} ({folder / file})"
        with reading(title), _large_images_are_no_news(), Image.open(folder / file) as image:
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format not in ("MPO", "JPEG"):  # those carry thumbnails
                raise ValueError(f"{title} has {pages} pages; split it into one file a page.")
            yield file.as_posix(), image


@contextmanager
def _large_images_are_no_news() -> Iterator[None]:
    """Pillow warns of images that are large; what is too large is compared with memory."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode_image(
    image: Image, title: str, *, size: Size | None = None, mode: Mode | None = None
) -> tuple[Tensor, str]:
    """Pixels of an open image, and what kind of pixels they are.

    Args:
        image: The image; the frame it stands at is decoded.
        title: The set's name and the file in messages.
        size: As for :func:`load_images`.
        mode: As for :func:`load_images`.

    Returns:
        float32 tensor ``(C, H, W)``, and ``"L"``, ``"RGB"``, ``"RGBA"``, ``"16-bit grey"`` or
        ``"float"`` (in [-1, 1] but for the last).

    Raises:
        ValueError: If the image needs a ``mode``, or cannot be converted to it.
    """
    from PIL import Image, ImageOps

    shape = (size, size) if isinstance(size, int) else size
    height, width = shape or image.size[::-1]
    require_memory(
        8 * len(image.getbands()) * height * width,  # bytes, float32, and a copy in between
        f"{title} at {width}x{height} pixels",
        "give a smaller size" if shape else "give it smaller",
    )
    image = ImageOps.exif_transpose(image)
    if image.mode in (*_SIXTEEN_BIT, "I", "F"):
        return _decode_deep(image, title, shape, mode)
    if mode is None:
        image = _plain_mode(image, title)
    elif image.mode != mode:
        image = image.convert(mode)
    if shape is not None and image.size != (shape[1], shape[0]):
        image = image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    bytes_ = np.array(image)  # a copy, which may be written
    pixels = torch.from_numpy(bytes_ if bytes_.ndim == 3 else bytes_[..., None])
    return scale_to_signed(pixels.permute(2, 0, 1), (0, 255), title), image.mode


def _plain_mode(image: Image, title: str) -> Image:
    """Grey or RGB without loss, or a sentence that asks for a mode."""
    if image.has_transparency_data:
        raise ValueError(
            f"{title} has an alpha channel ({image.mode}); pass mode='RGB' or mode='L' to drop it "
            f"or mode='RGBA' to keep it."
        )
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "P":
        return image.convert("RGB")
    raise ValueError(
        f"{title} has the colour model {image.mode}; pass mode='RGB' or mode='L' to convert it."
    )


def _decode_deep(
    image: Image, title: str, shape: tuple[int, int] | None, mode: Mode | None
) -> tuple[Tensor, str]:
    """Grey of 16 bits or of floats, at full depth (Pillow's own conversion would clip it)."""
    from PIL import Image

    is_float = image.mode == "F"
    if mode == "RGBA" or (is_float and mode is not None):
        raise ValueError(
            f"{title} has {'floating-point' if is_float else '16-bit'} pixels, which do not "
            f"convert to mode={mode!r}; leave mode out."
        )
    values = np.array(image).astype(np.float32)
    if not is_float and not (values.min() >= 0 and values.max() <= 65535):
        raise ValueError(
            f"{title} has 32-bit pixels from {values.min():g} to {values.max():g}; save it with 8 "
            f"or 16 bits."
        )
    if shape is not None and values.shape != shape:
        resized = Image.fromarray(values).resize(shape[::-1], Image.Resampling.BICUBIC)
        values = np.array(resized)
        if not is_float:
            values = values.clip(0, 65535)
    pixels = torch.from_numpy(values)[None]
    if is_float:
        return pixels, "float"
    channels = 3 if mode == "RGB" else 1
    signed = scale_to_signed(pixels, (0, 65535), title).expand(channels, -1, -1)
    return signed, mode or "16-bit grey"
