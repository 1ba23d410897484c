"""Training runs that the network studies share: ensembles with snapshots, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from memdiff.data.files import replace_file
from memdiff.processes import ForwardProcess
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP

__all__ = ["train_with_snapshots"]

CHUNK = 5000
"""Steps between two savings of the state: what an interruption costs at most."""


def train_with_snapshots(
    data: Tensor,
    process: ForwardProcess,
    members: Sequence[Member],
    snapshots: Sequence[int],
    directory: Path,
    name: str,
    progress: Callable[[str, float | None], None] | None = None,
) -> dict[int, list[MLP]]:
    """Train members together; hand back their averaged networks at some steps.

    Snapshots and state lie in ``directory``; what is there already is not trained again, and an
    interrupted run goes on exactly.

    Args:
        data: Training points with shape ``(N, *S)``.
        process: Forward process.
        members: The networks.
        snapshots: Steps, increasing.
        directory: Where to keep the files.
        name: Start of their names, one for each set of members.
        progress: Receives a message and the fraction done.

    Returns:
        Networks at each step of ``snapshots``, in the order of ``members``.
    """
    files = {step: directory / f"{name}-{step:07d}.safetensors" for step in snapshots}
    if not all(file.is_file() for file in files.values()):
        _train(data, process, members, files, directory / f"{name}-state.safetensors", progress)
    return {step: _read(file, members, data) for step, file in files.items()}


def _train(
    data: Tensor,
    process: ForwardProcess,
    members: Sequence[Member],
    files: dict[int, Path],
    state: Path,
    progress: Callable[[str, float | None], None] | None,
) -> None:
    ensemble, last = Ensemble(data, process, members), max(files)
    if state.is_file():
        ensemble.restore(state)
    while ensemble.step < last:
        following = min(step for step in files if step > ensemble.step)
        ensemble.advance(min(CHUNK, following - ensemble.step))
        if ensemble.step in files:
            _write(files[ensemble.step], ensemble)
        ensemble.save(state)
        if progress is not None:
            progress(f"step {ensemble.step} of {last}", ensemble.step / last)


def _write(path: Path, ensemble: Ensemble) -> None:
    from safetensors.torch import save_file

    tensors = {
        f"{index}.{key}": value.contiguous()
        for index, net in enumerate(ensemble.networks())
        for key, value in net.state_dict().items()
    }
    with replace_file(path) as temporary:
        save_file(tensors, temporary)


def _read(path: Path, members: Sequence[Member], data: Tensor) -> list[MLP]:
    from safetensors.torch import load_file

    tensors, nets = load_file(path), []
    for index, member in enumerate(members):
        net = member.network(data.shape[1:]).to(torch.float32)
        own = {key: tensors[f"{index}.{key}"] for key in net.state_dict()}
        net.load_state_dict(own)
        nets.append(net.eval().requires_grad_(False))
    return nets
