"""Features on disk, so that a second audit of the same data does not compute them again."""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
from pathlib import Path

import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset
from memdiff.features.descriptor import Descriptor, Progress
from memdiff.run.ranks import Ranks
from memdiff.run.writing import replace_file
from memdiff.sources import Rows
from memdiff.sources.hashing import sha256_of

__all__ = ["FeatureCache"]


class FeatureCache:
    """A folder of features, keyed by data, descriptor and preprocessing.

    The key is a hash over the points (:attr:`Dataset.sha256`), their kind and encoding, and
    :attr:`Descriptor.fingerprint`, which covers weights, preprocessing and fitted state. An entry
    is one ``.safetensors`` file that carries a hash of its own content: one that was damaged is
    computed again, with a warning. Entries are written whole or not at all, so processes may share
    a folder; nothing is ever removed.

    Args:
        folder: Where to keep the files; created at the first write.

    Attributes:
        hits: Number of requests answered from disk by this object.
        misses: Number of requests computed.

    Raises:
        ValueError: If ``folder`` is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"folder of the feature cache is the file {str(self.folder)!r}; give a folder."
            )
        self.hits = 0
        self.misses = 0

    def path(self, descriptor: Descriptor, data: Dataset) -> Path:
        """The file that holds, or would hold, the features of ``data``.

        Args:
            descriptor: The fitted descriptor.
            data: The data set.
        """
        key = json.dumps([data.sha256, data.kind, data.encoding, descriptor.fingerprint])
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / f"{digest[:40]}.safetensors"

    def features(
        self,
        descriptor: Descriptor,
        data: Dataset,
        *,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        ranks: Ranks | None = None,
    ) -> Tensor | Rows:
        """The features, from disk where they are there, else computed and kept.

        Args:
            descriptor: The fitted descriptor.
            data: The data set.
            batch_size: As in :meth:`Descriptor.features`.
            device: As in :meth:`Descriptor.features`.
            progress: As in :meth:`Descriptor.features`; not called for features from disk.
            ranks: As in :meth:`Descriptor.features`; the first one keeps the features.

        Returns:
            Rows ``(N, e)``; those from disk are mapped, and read when they are used. Writing to
            them does not change the file. Those of a set on disk stay in the file.

        Raises:
            ValueError: As :meth:`Descriptor.features`.
        """
        descriptor.check(data)
        path = self.path(descriptor, data) if descriptor.worth_caching else None
        ranks = Ranks() if ranks is None else ranks
        kept = None
        if path is not None and path.is_file():
            kept = _read(path, len(data), isinstance(data, StreamedDataset))
            if kept is None:
                warnings.warn(
                    f"cached features {str(path)!r} are damaged and were computed again.",
                    stacklevel=2,
                )
        # The folder may be of one machine: all ranks find the features, or all compute them.
        found = int(ranks.sum(torch.tensor(int(kept is not None))))
        if kept is not None and found == ranks.count:
            self.hits += 1
            return kept
        rows = descriptor.features(
            data, batch_size=batch_size, device=device, progress=progress, ranks=ranks
        )
        self.misses += 1
        if path is not None and ranks.is_first:
            _write(path, rows)
        return rows


def _read(path: Path, count: int, streamed: bool) -> Tensor | Rows | None:
    """The rows, or None where the file is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("sha256")
            rows: Tensor | Rows
            if streamed:
                rows = Rows.open(path, "features", key="features")
            else:
                rows = file.get_tensor("features")
    except (SafetensorError, ValueError):
        return None
    return rows if len(rows) == count and sha256_of(rows) == stated else None


def _write(path: Path, rows: Tensor | Rows) -> None:
    from safetensors.torch import save_file

    metadata = {"sha256": sha256_of(rows)}
    with replace_file(path) as temporary:
        if isinstance(rows, Rows):
            _write_blocks(temporary, rows, metadata)
            return
        save_file({"features": rows.contiguous()}, temporary, metadata=metadata)


def _write_blocks(path: Path, rows: Rows, metadata: dict[str, str]) -> None:
    """What ``save_file`` writes, which takes whole tensors only."""
    size = rows.numel() * rows.dtype.itemsize
    entry = {
        "dtype": {torch.float32: "F32", torch.float64: "F64"}[rows.dtype],
        "shape": list(rows.shape),
        "data_offsets": [0, size],
    }
    header = json.dumps({"__metadata__": metadata, "features": entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for block in rows.split(rows.block_size()):
            file.write(block.cpu().contiguous().numpy().data)
