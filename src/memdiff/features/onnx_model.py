"""Features from an ONNX file, computed by onnxruntime."""

from __future__ import annotations

import hashlib
import mmap
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memdiff.features.descriptor import Metric, find_device
from memdiff.features.learned import Learned, local_file
from memdiff.features.preprocessing import PREPROCESSING_PRESETS, Preprocessing
from memdiff.sources.hashing import sha256_of

__all__ = ["OnnxModel"]

_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}
# StringStringEntryProto of TensorProto.external_data with the key "location" and its value.
_LOCATION = re.compile(rb"\n\x08location\x12(?:([\x01-\x7f])|([\x80-\xff])([\x01-\x7f]))")


class OnnxModel(Learned):
    """Features from an ONNX image model on this machine.

    The model states its input, and images are brought to it: ``(B, C, H, W)`` or ``(B, H, W, C)``
    of 3 channels (RGB) or 1 (grey) in float32 or float16. Where ``H`` and ``W`` are
    fixed, images are resized to them, whole, unless the preprocessing ends in a crop of that size.
    Where ``B`` is fixed, images are passed in groups of as many. Weights that lie in files beside
    the model are read, and hashed, with it. Only load files that you trust.

    Args:
        path: The file, with fixed or free sizes.
        preprocessing: How images are brought to the input; by default as the authors of SSCD
            recommend (``PREPROCESSING_PRESETS["sscd-288"]``: shorter side 288, ImageNet's mean and
            deviation), at the model's own size where it has one; grey images are left in [0, 1].
            Give ``PREPROCESSING_PRESETS["as-is"]`` to a model that normalises by itself.
        output: Name of the output to take; by default the first with two dimensions ``(B, e)``, or
            the first of all, flattened, where none has.
        name: What reports call it.
        metric: ``"cosine"`` or ``"euclidean"``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no ONNX model that maps images to floats, or an argument does not fit
            it.
        ImportError: If ``onnxruntime`` is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preprocessing: Preprocessing | None = None,
        output: str | None = None,
        name: str = "onnx",
        metric: Metric = "cosine",
    ) -> None:
        self.path = local_file(path, name, "an ONNX file")
        session = _open(self.path, name, [_PROVIDERS["cpu"]])
        self._input = _find_input(session, name)
        self.output = _find_output(session, output, name)
        super().__init__(
            name=name, preprocessing=_fitted(preprocessing, self._input, name), metric=metric
        )
        self._sessions = {"cpu": session}
        self._session = session
        self._sha256 = _weights_sha256(self.path)

    @property
    def parameters(self) -> dict[str, Any]:
        """Hash of the file and of weights beside it, output and preprocessing."""
        return {
            "weights_sha256": self._sha256,
            "output": self.output,
            "preprocessing": self.preprocessing.parameters,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """As for every descriptor, with the path."""
        return {**super().settings, "path": str(self.path)}

    @contextmanager
    def _computing_on(self, device: torch.device | str | None) -> Iterator[torch.device]:
        """Run where onnxruntime can, with the images in the memory of the CPU."""
        where = find_device("cpu" if device is None else device)
        key = "cpu" if where.type == "cpu" else str(where)
        if key not in self._sessions:
            self._sessions[key] = self._session_on(where)
        self._session = self._sessions[key]
        try:
            yield torch.device("cpu")
        finally:
            self._session = self._sessions["cpu"]

    def _session_on(self, where: torch.device) -> Any:  # noqa: ANN401
        from onnxruntime import get_available_providers

        wanted = _PROVIDERS.get(where.type)
        if wanted in get_available_providers():
            options = {"device_id": str(where.index or 0)} if where.type == "cuda" else {}
            providers = [(wanted, options), _PROVIDERS["cpu"]]
            session = _open(self.path, self.name, providers)
            if wanted in session.get_providers():  # it leaves out those that do not start
                return session
        remedy = "; pip install onnxruntime-gpu has one" if where.type == "cuda" else ""
        warnings.warn(
            f"features {self.name!r} are computed on the CPU: this onnxruntime has no provider "
            f"that works on device {str(where)!r}{remedy}.",
            stacklevel=2,
        )
        return self._sessions["cpu"]

    def _output(self, prepared: Tensor) -> Tensor:
        entry = self._input
        size = tuple(prepared.shape[2:])
        if prepared.shape[1] != entry.channels or (entry.size is not None and size != entry.size):
            raise ValueError(
                f"features {self.name!r}: the preprocessing makes images of {prepared.shape[1]} "
                f"channels and {size[0]} x {size[1]} pixels, but the model takes {entry}; give "
                f"another preprocessing."
            )
        images = prepared.permute(0, 2, 3, 1) if entry.channels_last else prepared
        images = images.to(entry.dtype)
        step = entry.batch or len(images)
        parts = []
        for part in images.split(step):
            filling = part[-1:].expand(step - len(part), *part.shape[1:])
            parts.append(self._run(torch.cat([part, filling]))[: len(part)])
        return torch.cat(parts)

    def _run(self, images: Tensor) -> Tensor:
        try:
            found = self._session.run([self.output], {self._input.name: images.numpy()})[0]
        except Exception as error:  # those of onnxruntime have no other base
            raise ValueError(
                f"features {self.name!r}: the model could not be run on images of shape "
                f"{tuple(images.shape)}: {_reason(error)}; give another preprocessing, or export "
                f"the model for that shape."
            ) from error
        return torch.from_numpy(found)


@dataclass(frozen=True)
class _Input:
    """The input of a model; None for what it leaves free."""

    name: str
    dtype: torch.dtype
    batch: int | None
    channels: int
    size: tuple[int, int] | None
    channels_last: bool

    def __str__(self) -> str:
        pixels = "any size" if self.size is None else f"{self.size[0]} x {self.size[1]} pixels"
        return f"{self.channels} channels and {pixels}"


def _open(path: Path, name: str, providers: list[Any]) -> Any:  # noqa: ANN401
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise ImportError(
            f"features {name!r} need onnxruntime; run: pip install 'memdiff[onnx]'"
        ) from error
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is raised, and said once
    try:
        return InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # those of onnxruntime have no other base
        raise ValueError(
            f"features {name!r}: {str(path)!r} cannot be loaded as an ONNX model (a file of "
            f"weights alone is not one): {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What onnxruntime says, in one line and without its codes."""
    said = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
    return re.sub(r"^\d+ : \w+ : ", "", said)[:200]


def _find_input(session: Any, name: str) -> _Input:  # noqa: ANN401
    entries = session.get_inputs()
    if len(entries) != 1:
        found = ", ".join(repr(entry.name) for entry in entries) or "none"
        raise ValueError(
            f"features {name!r}: the model must have one input, the images, but has {found}; "
            f"export its image branch alone."
        )
    entry = entries[0]
    stated = f"{entry.type} of shape {entry.shape}"
    if len(entry.shape) != 4 or entry.type not in _FLOATS:
        raise ValueError(
            f"features {name!r}: the model must take floats (B, C, H, W) or (B, H, W, C), but its "
            f"input is {stated}."
        )
    # A dimension that is free is a name or None.
    batch, *rest = (side if isinstance(side, int) and side > 0 else None for side in entry.shape)
    channels_last = rest[0] not in (1, 3) and rest[2] in (1, 3)
    channels, height, width = (rest[2], rest[0], rest[1]) if channels_last else rest
    if channels not in (1, 3, None):
        raise ValueError(
            f"features {name!r}: the model must take images of 3 channels or 1, but its input is "
            f"{stated}."
        )
    height, width = height or width, width or height
    return _Input(
        entry.name,
        _FLOATS[entry.type],
        batch,
        channels or 3,
        None if height is None or width is None else (height, width),
        channels_last,
    )


def _find_output(session: Any, asked: str | None, name: str) -> str:  # noqa: ANN401
    entries = [entry for entry in session.get_outputs() if entry.type in _FLOATS]
    names = [entry.name for entry in entries]
    if asked is not None and asked not in names:
        raise ValueError(
            f"output must be one of the model's outputs of floats {names}, got {asked!r}."
        )
    if not names:
        kinds = ", ".join(entry.type for entry in session.get_outputs())
        raise ValueError(
            f"features {name!r}: the model must return floats, but returns {kinds}; export it "
            f"with the features as an output."
        )
    rows = [entry.name for entry in entries if len(entry.shape) == 2]
    found: str = (rows or names)[0] if asked is None else asked
    return found


def _fitted(given: Preprocessing | None, entry: _Input, name: str) -> Preprocessing:
    """The preprocessing with the channels and the size that the model states."""
    fitted = PREPROCESSING_PRESETS["sscd-288"] if given is None else given
    if not isinstance(fitted, Preprocessing):
        return fitted  # refused with every other argument
    if entry.channels == 1 and fitted.channels == "rgb":
        if given is None:
            fitted = replace(fitted, mean=None, std=None)
        if fitted.mean is not None and len(fitted.mean) > 1:
            raise ValueError(
                f"features {name!r}: the preprocessing has means of {len(fitted.mean)} channels, "
                f"but the model takes {entry}; give as-is or one of a single mean."
            )
        fitted = replace(fitted, channels="grey")
    return fitted if entry.size is None else fitted.for_size(*entry.size)


def _weights_sha256(path: Path) -> str:
    """SHA-256 of a model; of those of all its files where weights lie beside it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = set()
        for match in _LOCATION.finditer(content):
            short, low, high = (part[0] if part else 0 for part in match.groups())
            length = short or (low & 0x7F) | high << 7
            names.add(content[match.end() : match.end() + length].decode("utf-8", "replace"))
    beside = [path.parent / name for name in sorted(names)]
    hashes = [sha256_of(path), *(sha256_of(file) for file in beside if file.is_file())]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
