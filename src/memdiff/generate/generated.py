"""Samples that were generated, and how they were made."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from memdiff.data import Dataset, TableEncoding
from memdiff.generate.selection import Selection
from memdiff.generate.settings import GenerationSettings

__all__ = ["Generated"]


@dataclass(frozen=True)
class Generated:
    """Samples and how they were made.

    Attributes:
        samples: Samples of the kind of the training data, ``(num, *S)``, in their units.
        settings: The settings that were asked for.
        resolved: What they came to: strength, process, sampler, final time, seconds, ...
        selection: The leave-one-out curve behind ``strength="auto"``, or None.
        warnings: What a reader should know.
        encoding: How a table was encoded, or None.
    """

    samples: Dataset
    settings: GenerationSettings
    resolved: dict[str, Any]
    selection: Selection | None = None
    warnings: tuple[str, ...] = field(default=())
    encoding: TableEncoding | None = None

    @property
    def x(self) -> Tensor:
        """The samples with shape ``(num, *S)``, in the units and dtype of the training data."""
        return self.samples.x

    def __repr__(self) -> str:
        """One line: how many, of what shape, and how they are kept from memorising."""
        strength = self.resolved.get("strength")
        how = self.settings.regularizer + (
            "" if strength is None else f", strength {strength:.4g}"
        )
        return f"Generated({len(self.x):,} samples of shape {tuple(self.x.shape[1:])}, {how})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return f"<code>{html.escape(repr(self))}</code>" + (f"<ul>{notes}</ul>" if notes else "")
