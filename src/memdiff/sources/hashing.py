"""Hashes of data: of files, tensors, rows on disk, and the weights of networks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from memdiff.sources.rows import Rows

if TYPE_CHECKING:
    from torch import nn

__all__ = ["sha256_of", "state_sha256"]


def sha256_of(source: str | Path | Tensor | Rows) -> str:
    """SHA-256 of a file's bytes, or of a tensor's dtype, shape and values.

    Args:
        source: A file, or a tensor of any layout and device (equal tensors hash equally), or rows
            on disk, which hash as the tensor that they stand for and are read in blocks.

    Returns:
        64 hexadecimal digits.

    Raises:
        FileNotFoundError: If the file does not exist.

    Example:
        >>> import torch
        >>> a = torch.arange(6.0).reshape(2, 3)
        >>> sha256_of(a) == sha256_of(a.T.contiguous().T), sha256_of(a) == sha256_of(a.double())
        (True, False)
    """
    if isinstance(source, (Tensor, Rows)):
        return _sha256_of_tensor(source)
    with Path(source).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of_tensor(tensor: Tensor | Rows) -> str:
    import torch

    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    rows = tensor
    if isinstance(tensor, Tensor):
        rows = tensor.detach().reshape(1) if tensor.ndim == 0 else tensor.detach()
    width = max(1, rows[0].numel() * rows.dtype.itemsize) if rows.shape[0] else 1
    for block in rows.split(max(1, (1 << 24) // width)):  # 16 MiB at a time
        digest.update(block.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, by name, dtype, shape and values.

    Args:
        module: The network; non-persistent buffers and code do not enter.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{key}\0{sha256_of(value)}\n".encode())
    return digest.hexdigest()
