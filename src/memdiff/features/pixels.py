"""The values themselves."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset
from memdiff.features.descriptor import Descriptor, Progress, signed_pixels
from memdiff.run.ranks import Ranks
from memdiff.sources import Rows

__all__ = ["Pixels"]


class Pixels(Descriptor):
    """The values of a point as one row: pixels in [-1, 1], or the coordinates of a vector.

    A table gives its numbers and codes as they are; use
    :class:`~memdiff.features.columns.TableColumns` there.

    Example:
        >>> from memdiff.data import from_array
        >>> Pixels().features(from_array(torch.eye(2))).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    worth_caching: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``"pixels"``."""
        return "pixels"

    @property
    def parameters(self) -> dict[str, Any]:
        """None."""
        return {}

    def features(
        self,
        data: Dataset,
        *,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        ranks: Ranks | None = None,
    ) -> Tensor | Rows:
        """As :meth:`Descriptor.features`, but no copy where the values need no mapping.

        The rows then share the memory of ``data.x``, also where that is mapped from a file. Points
        on disk stay there, and are mapped in the blocks in which they are read. There is nothing
        that ranks could share.
        """
        if isinstance(data, StreamedDataset):
            self.check(data)
            return data.x.map(partial(signed_pixels, data=data)).flatten()
        if data.kind in ("images", "video") and data.encoding in ("unit", "byte"):
            return super().features(data, batch_size=batch_size, device=device, progress=progress)
        rows = data.x.flatten(1)
        for start in range(0, len(rows), 1024):
            block = rows[start : start + 1024]
            self._check_finite(block, data, start)
            if progress is not None:
                progress(start + len(block), len(rows))
        return rows

    def _describe(self, x: Tensor) -> Tensor:
        return x.flatten(1)
