"""Rows that are computed block by block, kept in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from memdiff.sources.files import ArrayFile
from memdiff.sources.rows import Rows
from memdiff.sources.storage import Shards

__all__ = ["Spool"]


class Spool:
    """Takes blocks of rows, and gives them back as :class:`Rows` on disk.

    The file lies in the folder for temporary files (``TMPDIR``), and goes when the rows do.

    Args:
        count: Number of rows that will come.
        features: Numbers in each.
        dtype: float32 or float64.
        name: What error messages call the rows.

    Example:
        >>> with Spool(3, 2, torch.float32, "features") as spool:
        ...     spool.append(torch.zeros(1, 2))
        ...     spool.append(torch.ones(2, 2))
        ...     rows = spool.rows()
        >>> rows[1:].tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    def __init__(self, count: int, features: int, dtype: torch.dtype, name: str) -> None:
        handle, path = tempfile.mkstemp(prefix="memdiff-", suffix=".npy")
        self._path = Path(path)
        self._name = name
        self._expected = count
        self._count = 0
        self._kept = False
        self._file = os.fdopen(handle, "wb")
        header = {
            "shape": (count, features),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(torch.empty(0, dtype=dtype).numpy().dtype),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def append(self, block: Tensor) -> None:
        """Add rows ``(n, features)``."""
        self._file.write(block.detach().cpu().contiguous().numpy().data)
        self._count += len(block)

    def rows(self) -> Rows:
        """The rows, once all have come.

        Raises:
            ValueError: If some are missing.
        """
        if self._count != self._expected:
            raise ValueError(
                f"rows of {self._name} are incomplete: {self._count} of {self._expected} came; "
                f"append the rest first."
            )
        self._file.flush()
        found = Rows(ArrayFile.open(self._path, self._name), self._name)
        storage = found.storage
        assert isinstance(storage, Shards)
        weakref.finalize(storage, self._path.unlink, missing_ok=True)
        self._kept = True
        return found
