"""Descriptors by the text that the command line takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memdiff.features.columns import TableColumns
from memdiff.features.dct import DCT
from memdiff.features.descriptor import Descriptor
from memdiff.features.downscaled import Downscaled
from memdiff.features.forms import DESCRIPTOR_FORMS
from memdiff.features.onnx_model import OnnxModel
from memdiff.features.pca import PCA
from memdiff.features.pixels import Pixels
from memdiff.features.preprocessing import PREPROCESSING_PRESETS, Preprocessing
from memdiff.features.thumbnail import Thumbnail
from memdiff.features.torchscript import TorchScript
from memdiff.features.transformers_model import TransformersModel

__all__ = ["parse_descriptor"]

_SIZED: dict[str, Callable[[int], Descriptor]] = {
    "downscaled": Downscaled,
    "pca": PCA,
    "dct": DCT,
    "thumbnail": Thumbnail,
}


def parse_descriptor(text: str) -> Descriptor:
    """Make a descriptor of ``NAME`` or ``NAME:ARGUMENT``.

    - ``pixels``, ``table``, ``downscaled:16``, ``pca:64``, ``dct:8``,
      ``thumbnail:8``;
    - ``sscd:FILE``: a TorchScript file of the SSCD authors, with the preprocessing that they
      recommend (``sscd-288``) unless another preset follows;
    - ``torchscript:FILE:PRESET``: any TorchScript file; there is no default preset;
    - ``onnx:FILE``: any ONNX image model, with the preprocessing of ``sscd`` at the size that the
      model states, unless a preset follows;
    - ``transformers:FOLDER``: with the preprocessing that the folder's
      ``preprocessor_config.json`` states, unless a preset follows.

    A preset is a name of :data:`~memdiff.features.preprocessing.PREPROCESSING_PRESETS`.

    Args:
        text: What the user wrote.

    Returns:
        The descriptor, not fitted.

    Raises:
        ValueError: If there is no such descriptor, or its argument is missing or wrong; the
            message lists what exists.
        FileNotFoundError: If a file or folder does not exist.
        ImportError: If an extra is needed.

    Example:
        >>> parse_descriptor("dct:8").name
        'dct:8'
        >>> parse_descriptor("resnet")
        Traceback (most recent call last):
        ValueError: unknown features 'resnet'; give one of pixels, downscaled:SIZE, ...
    """
    noun, colon, argument = text.strip().partition(":")
    if noun in ("pixels", "table"):
        if colon:
            raise ValueError(f"features {noun!r} take no argument, got {text!r}; give {noun!r}.")
        return Pixels() if noun == "pixels" else TableColumns()
    if noun in ("downscaled", "pca", "dct", "thumbnail"):
        if not (argument.isascii() and argument.isdigit() and int(argument) >= 1):
            raise ValueError(
                f"features {noun!r} need a number, got {text!r}; give, for example, '{noun}:16'."
            )
        number = int(argument)
        return _SIZED[noun](number)
    if noun in ("sscd", "torchscript", "onnx", "transformers"):
        return _learned(noun, argument, text)
    raise ValueError(f"unknown features {text!r}; give one of {', '.join(DESCRIPTOR_FORMS)}.")


def _learned(noun: str, argument: str, text: str) -> Descriptor:
    path, preprocessing = _split_preset(argument, text)
    if not path:
        form = next(form for form in DESCRIPTOR_FORMS if form.startswith(noun))
        raise ValueError(f"features {noun!r} need a path, got {text!r}; give {form}.")
    if noun == "transformers":
        stated = preprocessing or Preprocessing.from_folder(Path(path).expanduser())
        name = f"transformers:{Path(path).name}"
        return TransformersModel(path, preprocessing=stated, name=name)
    if noun == "onnx":
        return OnnxModel(path, preprocessing=preprocessing, name=f"onnx:{Path(path).stem}")
    if preprocessing is None and noun == "torchscript":
        raise ValueError(
            f"features {text!r} do not say how images are prepared; give torchscript:FILE:PRESET "
            f"with one of {', '.join(PREPROCESSING_PRESETS)}."
        )
    preset = preprocessing or PREPROCESSING_PRESETS["sscd-288"]
    name = noun if noun == "sscd" else f"torchscript:{Path(path).stem}"
    return TorchScript(path, preprocessing=preset, name=name)


def _split_preset(argument: str, text: str) -> tuple[str, Preprocessing | None]:
    """The path, and the preset behind its last colon (paths may hold colons themselves)."""
    path, colon, preset = argument.rpartition(":")
    if colon and preset in PREPROCESSING_PRESETS:
        return path, PREPROCESSING_PRESETS[preset]
    if colon and not Path(argument).exists() and Path(path).expanduser().exists():
        raise ValueError(
            f"unknown preset {preset!r} in features {text!r}; give one of "
            f"{', '.join(PREPROCESSING_PRESETS)}."
        )
    return argument, None
