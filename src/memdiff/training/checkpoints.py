"""Checkpoints of a training run: all that it needs to go on exactly, in one file.

A state is one safetensors file: the weights (``score.*``), their average (``averaged.*``), the
tensors of the optimizer (``optimizer.*``), and in the header a JSON text with the rest. No random
state is among them: what is random in a step depends on the seed and the number of the step (see
:mod:`memdiff.training.batches`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memdiff.run.writing import replace_file
from memdiff.training.loop import TrainingState

__all__ = ["load_state", "load_weights", "read_header", "save_state", "save_weights"]

_KEY = "memdiff"
_SCHEMA = 1


def save_state(
    state: TrainingState, path: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Save a state; a kill at any moment leaves the old file or the new one.

    Args:
        state: The state of a run.
        path: The ``.safetensors`` file.
        facts: What else the run has to remember, in plain JSON types: the settings it was started
            with, the state of its monitor.

    Returns:
        The path.

    Raises:
        ValueError: If the optimizer holds something that is neither a tensor nor plain JSON.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("score", state.score), ("averaged", state.averaged)):
        for name, tensor in module.state_dict().items():
            tensors[f"{prefix}.{name}"] = tensor
    optimizer = state.optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    header = {
        "schema": _SCHEMA,
        "step": state.step,
        "optimizer": {"groups": optimizer["param_groups"], "values": plain},
        "facts": dict(facts or {}),
    }
    return _save(tensors, header, path)


def load_state(path: str | Path, state: TrainingState) -> Mapping[str, Any]:
    """Bring a new state to where a saved one was.

    Args:
        path: The file of :func:`save_state`.
        state: A state of a score of the same structure with the same kind of optimizer; changed
            in place.

    Returns:
        The facts that were saved with it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no saved state, or of another structure.
    """
    tensors, header = _load(path)
    if "optimizer" not in header:
        raise ValueError(f"{str(path)!r} holds weights alone: give the state of a run.")
    _assign(state.score, tensors, "score", path)
    _assign(state.averaged, tensors, "averaged", path)
    entries: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in header["optimizer"]["values"].items()
    }
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            entries.setdefault(int(index), {})[key] = tensor
    groups = header["optimizer"]["groups"]
    try:
        state.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} is the state of another optimizer: {error}; start the run as it was "
            "started then."
        ) from error
    state.step = int(header["step"])
    facts: Mapping[str, Any] = header["facts"]
    return facts


def save_weights(
    module: nn.Module, path: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Save the weights and buffers of a module, whole or not at all.

    Args:
        module: The module.
        path: The ``.safetensors`` file.
        facts: Plain JSON to keep in its header.

    Returns:
        The path.
    """
    header = {"schema": _SCHEMA, "facts": dict(facts or {})}
    return _save(dict(module.state_dict()), header, path)


def load_weights(module: nn.Module, path: str | Path) -> Mapping[str, Any]:
    """Load what :func:`save_weights` saved into a module of the same structure.

    Args:
        module: The module, changed in place.
        path: The file.

    Returns:
        The facts that were saved with them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint of memdiff, or of another structure.
    """
    tensors, header = _load(path)
    _assign(module, {f"module.{name}": tensor for name, tensor in tensors.items()}, "module", path)
    facts: Mapping[str, Any] = header["facts"]
    return facts


def read_header(path: str | Path) -> Mapping[str, Any]:
    """Read the JSON header of a checkpoint, without its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint of memdiff.
    """
    from safetensors import SafetensorError, safe_open

    _require(path)
    try:
        with safe_open(str(path), framework="pt") as archive:
            metadata = archive.metadata() or {}
    except SafetensorError as error:
        raise _not_ours(path, str(error)) from error
    return _header(metadata, path)


def _save(tensors: dict[str, Tensor], header: Mapping[str, Any], path: str | Path) -> Path:
    from safetensors.torch import save

    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cannot save {str(path)!r}: {error}; the facts and the optimizer must hold tensors "
            "and plain JSON."
        ) from error
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    owned = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    with replace_file(path) as temporary:
        temporary.write_bytes(save(owned, metadata={_KEY: text}))
    return Path(path)


def _load(path: str | Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        return load_file(str(path)), header
    except (SafetensorError, OSError) as error:
        raise _not_ours(path, str(error)) from error


def _require(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no checkpoint at {str(path)!r}: give a file that memdiff train wrote."
        )


def _header(metadata: Mapping[str, str], path: str | Path) -> Mapping[str, Any]:
    if _KEY not in metadata:
        raise _not_ours(path, "it has no memdiff header")
    try:
        header: Mapping[str, Any] = json.loads(metadata[_KEY])
    except ValueError as error:
        raise _not_ours(path, str(error)) from error
    if header.get("schema") != _SCHEMA:
        raise _not_ours(path, f"its schema is {header.get('schema')}, expected {_SCHEMA}")
    return header


def _not_ours(path: str | Path, why: str) -> ValueError:
    return ValueError(f"{str(path)!r} is no checkpoint of memdiff: {why}.")


def _assign(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: str | Path
) -> None:
    start = f"{prefix}."
    found = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    expected = module.state_dict()
    wrong = sorted(found.keys() ^ expected.keys()) or [
        name for name, tensor in expected.items() if tensor.shape != found[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{str(path)!r} is of a network of another structure, first at {wrong[0]!r}: build "
            "the network as it was built then."
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(found[name])
