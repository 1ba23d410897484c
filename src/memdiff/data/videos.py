"""Folders of videos and animations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memdiff.data.arrays import from_array
from memdiff.data.dataset import Dataset
from memdiff.data.images import Mode, Size, decode_image, labels_of_folders
from memdiff.data.reading import reading
from memdiff.run.memory import require_memory

__all__ = ["ANIMATION_SUFFIXES", "VIDEO_SUFFIXES", "is_animated", "load_videos"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
ANIMATION_SUFFIXES = (".gif", ".webp", ".png")
"""Suffixes of files that may hold one image or several frames; Pillow reads both."""


def load_videos(
    folder: Path,
    files: Sequence[Path],
    *,
    name: str = "data",
    size: Size | None = None,
    mode: Mode | None = None,
    frames: int | None = None,
) -> Dataset:
    """Decode clips into one tensor ``(N, F, C, H, W)``, float32 in [-1, 1].

    Animated GIF, WebP and PNG are read by Pillow; ``.mp4``, ``.avi``, ``.mov``, ``.mkv``,
    ``.webm`` and ``.m4v`` by OpenCV. Frames are RGB unless ``mode`` is given (transparency of
    animations is dropped). The frame rate is not used.

    Args:
        folder: The folder, for the names and the class labels.
        files: Files relative to it, in order, at least one.
        name: What to call the set in messages.
        size: Resize every frame, as for :func:`~memdiff.data.images.load_images`.
        mode: ``"L"``, ``"RGB"`` (default) or ``"RGBA"``.
        frames: Keep the first so many frames of every clip. Without it all clips must have the
            same number.

    Returns:
        The data set; its labels are those of :func:`~memdiff.data.images.labels_of_folders`.

    Raises:
        ValueError: If a clip is unreadable, truncated, too short, or differs from the first.
        ImportError: If a file needs OpenCV, which is not installed.
    """
    x = torch.empty(0)
    for position, file in enumerate(files):
        title = f"{name} ({folder / file})"
        with reading(title):
            animated = file.suffix.lower() in ANIMATION_SUFFIXES
            clip = (_animation if animated else _video)(
                folder / file, title, size, mode or "RGB", frames
            )
        if frames is not None and len(clip) < frames:
            raise ValueError(
                f"{title} has {len(clip)} frames, fewer than frames={frames}; pass "
                f"frames={len(clip)} or remove it."
            )
        if position == 0:
            require_memory(
                4 * len(files) * clip.numel(),
                f"{name} ({folder}): {len(files)} clips of shape {tuple(clip.shape)}",
                "give fewer, or fewer frames",
            )
            x = torch.empty(len(files), *clip.shape)
        elif clip.shape != x.shape[1:]:
            fewest = min(len(clip), x.shape[1])
            alike = clip.shape[1:] == x.shape[2:]
            remedy = f"frames={fewest}" if alike else "size=(H, W)"
            raise ValueError(
                f"{name} ({folder}) mixes clips (frames, channels, height, width): "
                f"{str(files[0])!r} is {tuple(x.shape[1:])} but {str(file)!r} is "
                f"{tuple(clip.shape)}; pass {remedy} to make them alike."
            )
        x[position] = clip
    data = from_array(x, name=name, source=str(folder), encoding="signed", layout="channels_first")
    labels, label_names = labels_of_folders(files)
    return replace(
        data,
        stored="uint8",
        names=tuple(file.as_posix() for file in files),
        labels=labels,
        label_names=label_names,
    )


def is_animated(path: Path, title: str) -> bool:
    """Whether a GIF, WebP or PNG holds more than one frame; reads the header only.

    Args:
        path: The file.
        title: The set's name and the file in messages.

    Raises:
        ValueError: If the file is no image.
    """
    from PIL import Image

    with reading(title), Image.open(path) as image:
        return getattr(image, "n_frames", 1) > 1


def _animation(
    path: Path, title: str, size: Size | None, mode: Mode, frames: int | None
) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        count: int = getattr(image, "n_frames", 1)
        decoded = []
        for position in range(count if frames is None else min(count, frames)):
            image.seek(position)
            decoded.append(decode_image(image, title, size=size, mode=mode)[0])
    return torch.stack(decoded)


def _video(path: Path, title: str, size: Size | None, mode: Mode, frames: int | None) -> Tensor:
    from PIL import Image

    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"{title} needs OpenCV to be read; run: pip install 'memdiff[video]'"
        ) from error
    capture = cv2.VideoCapture(str(path))
    try:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        decoded: list[Tensor] = []
        while frames is None or len(decoded) < frames:
            found, picture = capture.read()
            if not found:
                break
            rgb = Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
            decoded.append(decode_image(rgb, title, size=size, mode=mode)[0])
    finally:
        capture.release()
    if not decoded:
        raise ValueError(
            f"{title} cannot be read: it is damaged, truncated or of a codec that this OpenCV "
            f"lacks; remove it or convert it to H.264 in .mp4."
        )
    expected = announced if frames is None else min(announced, frames)
    if len(decoded) + 1 < expected:  # containers may announce one frame too many
        raise ValueError(
            f"{title} announces {announced} frames but only {len(decoded)} can be decoded: it is "
            f"truncated; remove it or pass frames={len(decoded)}."
        )
    return torch.stack(decoded)
