"""How images are brought to what a network was trained on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["PREPROCESSING_PRESETS", "Preprocessing", "luma"]

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Channels = Literal["rgb", "grey", "same"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


def luma(images: Tensor) -> Tensor:
    """Grey images: 0.299 R + 0.587 G + 0.114 B.

    An alpha channel lays the image over mid-grey, so that the shape of a cut-out counts and what
    lies under its transparent pixels does not. Channels of other numbers are averaged.

    Args:
        images: ``(..., C, H, W)``, black -1 and white 1 (alpha too: -1 transparent, 1 opaque).

    Returns:
        ``(..., H, W)`` of the same dtype.
    """
    channels = images.shape[-3]
    if channels not in (3, 4):
        return images.mean(-3)
    grey = torch.einsum("...chw,c->...hw", images[..., :3, :, :], images.new_tensor(_LUMA))
    return grey if channels == 3 else grey * (images[..., 3, :, :] + 1) / 2


@dataclass(frozen=True)
class Preprocessing:
    """Steps from images in [-1, 1] to the input of a network, in this order.

    1. To [0, 1], clamped, as when an image is saved: generated images overshoot.
    2. Channels. 3. Resize, clamped again (bicubic overshoots). 4. Central crop.
    5. ``(x - mean) / std`` for each channel.

    Resizing works on floats, where torchvision on Pillow images rounds to 8 bits.

    Attributes:
        resize: ``(height, width)``, or a number for the shorter side (the longer one keeps the
            aspect, rounded down), or None to leave the size alone.
        crop: ``(height, width)`` of the central crop, or None.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        antialias: Widen the filter when reducing, as Pillow always does.
        channels: ``"rgb"`` (grey is repeated), ``"grey"`` (RGB becomes 0.299 R + 0.587 G +
            0.114 B) or ``"same"`` (as they are).
        mean: Means by channel, or one for all; together with ``std``, or None for neither.
        std: Standard deviations by channel, or one for all.

    Raises:
        ValueError: If an attribute is out of range.

    Example:
        >>> preset = PREPROCESSING_PRESETS["imagenet"]
        >>> preset(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 3, 224, 224])
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    channels: Channels = "rgb"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for what, size in (("resize", self.resize), ("crop", self.crop)):
            sides = (size,) if isinstance(size, int) and what == "resize" else size
            if sides is not None and (
                not isinstance(sides, tuple)
                or len(sides) != (1 if isinstance(size, int) else 2)
                or not all(isinstance(side, int) and side >= 1 for side in sides)
            ):
                shorter = ", a number for the shorter side" if what == "resize" else ""
                raise ValueError(
                    f"{what} must be a tuple (height, width) of pixels{shorter} or None, got "
                    f"{size!r}."
                )
        if self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(
                f"interpolation must be 'nearest', 'bilinear' or 'bicubic', got "
                f"{self.interpolation!r}."
            )
        if self.channels not in ("rgb", "grey", "same"):
            raise ValueError(f"channels must be 'rgb', 'grey' or 'same', got {self.channels!r}.")
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                f"mean and std go together, got mean={self.mean} and std={self.std}; give both or "
                f"neither."
            )
        if self.mean is not None and self.std is not None:
            numbers = (*self.mean, *self.std)
            if (
                len(self.mean) != len(self.std)
                or not numbers
                or not all(math.isfinite(value) for value in numbers)
                or min(self.std) <= 0
            ):
                raise ValueError(
                    f"mean and std must be equally many numbers, std positive, got "
                    f"mean={self.mean} and std={self.std}."
                )

    @property
    def parameters(self) -> dict[str, Any]:
        """The attributes as JSON can hold them."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare a batch.

        Args:
            images: ``(B, C, H, W)`` in [-1, 1].

        Returns:
            ``(B, C', H', W')``, float32.

        Raises:
            ValueError: If the number of channels or the size does not fit.
        """
        x = images.to(torch.float32).add(1).div_(2).clamp_(0, 1)
        x = self._convert(x)
        if self.resize is not None:
            x = self._resized(x, self.resize)
        if self.crop is not None:
            x = self._cropped(x, self.crop)
        if self.mean is not None and self.std is not None:
            if len(self.mean) not in (1, x.shape[1]):
                raise ValueError(
                    f"mean and std have {len(self.mean)} channels but the images {x.shape[1]}; "
                    f"set channels='rgb' or give as many."
                )
            mean, std = (x.new_tensor(v).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
            x = (x - mean) / std
        return x

    def for_size(self, height: int, width: int) -> Preprocessing:
        """The same steps for a network that takes one size.

        Args:
            height: Height of the input.
            width: Its width.

        Returns:
            This preprocessing if it ends in a central crop of that size; else one that resizes
            the whole image to it, so that nothing at the border is lost.
        """
        if self.crop == (height, width):
            return self
        return dataclasses.replace(self, resize=(height, width), crop=None)

    def _convert(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        if self.channels == "same" or count == {"rgb": 3, "grey": 1}[self.channels]:
            return x
        if self.channels == "rgb" and count == 1:
            return x.expand(-1, 3, -1, -1)
        if self.channels == "grey" and count == 3:
            return luma(x).unsqueeze(1)
        raise ValueError(
            f"the images have {count} channels, which channels={self.channels!r} does not "
            f"convert; load them with mode='RGB' or mode='L', or set channels='same'."
        )

    def _resized(self, x: Tensor, size: int | tuple[int, int]) -> Tensor:
        h, w = x.shape[-2:]
        if isinstance(size, int):
            long = int(size * max(h, w) / min(h, w))
            size = (size, long) if h <= w else (long, size)
        if (h, w) == size:
            return x
        if self.interpolation == "nearest":
            return interpolate(x, size, mode="nearest-exact")
        resized = interpolate(
            x, size, mode=self.interpolation, align_corners=False, antialias=self.antialias
        )
        return resized.clamp_(0, 1)

    @staticmethod
    def _cropped(x: Tensor, size: tuple[int, int]) -> Tensor:
        h, w = x.shape[-2:]
        if h < size[0] or w < size[1]:
            raise ValueError(
                f"crop={size} is larger than the images, which are {(h, w)} at that point; resize "
                f"them first."
            )
        top, left = round((h - size[0]) / 2), round((w - size[1]) / 2)
        return x[..., top : top + size[0], left : left + size[1]]

    @classmethod
    def from_folder(cls, folder: str | Path) -> Preprocessing:
        """Read the ``preprocessor_config.json`` that lies with a ``transformers`` model.

        Args:
            folder: Folder of the model.

        Returns:
            The preprocessing that the file states; channels are ``"rgb"``.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If there is no such file in it, or it does not state every step, or asks
                for one that is not offered here.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(folder)!r}; give the folder of a transformers model on "
                f"this machine, nothing is downloaded."
            )
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = Path(folder) / name
            if path.is_file():
                try:
                    stated = json.loads(path.read_text("utf-8"))
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise ValueError(
                        f"{str(path)!r} is not valid JSON; copy it again or give the "
                        f"preprocessing explicitly."
                    ) from error
                return cls._from_config(stated.get("image_processor", stated), path)
        raise ValueError(
            f"{str(folder)!r} has no preprocessor_config.json, which states how images are "
            f"prepared; give the preprocessing explicitly: one of "
            f"{', '.join(PREPROCESSING_PRESETS)}."
        )

    @classmethod
    def _from_config(cls, stated: Mapping[str, Any], path: Path) -> Preprocessing:
        def refuse(what: str) -> ValueError:
            return ValueError(
                f"{str(path)!r} {what}; give the preprocessing explicitly: one of "
                f"{', '.join(PREPROCESSING_PRESETS)}."
            )

        def step(flag: str, *needed: str) -> bool:
            for key in (flag, *(needed if stated.get(flag) else ())):
                if stated.get(key) is None:
                    raise refuse(f"does not state {key}")
            return bool(stated[flag])

        values: dict[str, Any] = {}
        if step("do_resize", "size", "resample"):
            names: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
            if stated["resample"] not in names:
                raise refuse(f"asks for resample={stated['resample']!r}, which is not offered")
            values["interpolation"] = names[stated["resample"]]
            size = stated["size"]
            if isinstance(size, dict) and set(size) == {"shortest_edge"}:
                size = size["shortest_edge"]
            values["resize"] = size if isinstance(size, int) else _sides(size)
            if values["resize"] is None:
                raise refuse(f"asks for size={size!r}, which is not offered")
        # Models without a crop leave the flag out altogether.
        if stated.get("do_center_crop") is not None and step("do_center_crop", "crop_size"):
            size = stated["crop_size"]
            values["crop"] = (size, size) if isinstance(size, int) else _sides(size)
            if values["crop"] is None:
                raise refuse(f"asks for crop_size={size!r}, which is not offered")
        factor = stated.get("rescale_factor", 1 / 255)
        if not step("do_rescale") or abs(factor * 255 - 1) > 1e-6:
            raise refuse("does not map pixels to [0, 1], which is not offered")
        if step("do_normalize", "image_mean", "image_std"):
            values["mean"] = tuple(float(value) for value in stated["image_mean"])
            values["std"] = tuple(float(value) for value in stated["image_std"])
        return cls(**values)


def _sides(size: Any) -> tuple[int, int] | None:  # noqa: ANN401
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    return None


_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

PREPROCESSING_PRESETS: Mapping[str, Preprocessing] = {
    "sscd-288": Preprocessing(resize=288, **_IMAGENET),
    "sscd-320": Preprocessing(resize=(320, 320), **_IMAGENET),
    "sscd-wen": Preprocessing(resize=256, crop=(224, 224), mean=(0.5,), std=(0.5,)),
    "sscd-amg": Preprocessing(resize=(224, 224)),
    "imagenet": Preprocessing(resize=256, crop=(224, 224), **_IMAGENET),
    "dinov2": Preprocessing(resize=256, crop=(224, 224), interpolation="bicubic", **_IMAGENET),
    "clip": Preprocessing(
        resize=224,
        crop=(224, 224),
        interpolation="bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "as-is": Preprocessing(),
}
"""Published preprocessing by name.

``sscd-288`` and ``sscd-320`` are what the authors of SSCD recommend (README of
``facebookresearch/sscd-copy-detection``); ``sscd-wen`` is Wen et al. 2024 (their
``measure_SSCD_similarity``); ``sscd-amg`` is Chen et al. 2024, no normalisation (reconstructed: on
[0, 1]). The last, ``as-is``, gives RGB in [0, 1] of the size the images have. Similarities under
different presets do not compare.
"""
