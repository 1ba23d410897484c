r"""Transforms under which a copy is still a copy: mirror images, small shifts, quarter turns.

A distance becomes invariant by its minimum over transforms :math:`g` of the *query* (the generated
image): :math:`d_G(q, x) = \min_g d(g q, x)`. Transforming the training images too would add
nothing where the transforms permute pixels and contain their inverses, as
:math:`d(g q, h x) = d(h^{-1} g q, x)`: so it is for :class:`Flip`, :class:`Rotate90` and for
:class:`Shift` with ``padding="wrap"``. A shift that pads drops a border on one side and makes up
another, so there it holds up to borders.

The minimum over more transforms is smaller for *every* image: held-out images have to be
transformed in the same way as generated ones before the two are compared.

>>> queries = torch.tensor([[[[1.0, 2.0]]]])
>>> dict(zip(Flip().names, Flip().expand(queries).flatten(1).tolist()))
{'identity': [1.0, 2.0], 'flip': [2.0, 1.0]}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset

__all__ = ["Composition", "Flip", "Invariance", "Rotate90", "Shift", "parse_invariance"]

_OFFERED = "flip, rotate90, shift:PIXELS (shift alone means shift:2)"


class Invariance(ABC):
    """A finite set of transforms of images, the identity first."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """One name a transform; the first is ``"identity"``."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether it is enough to transform the queries: permutations with their inverses."""

    @abstractmethod
    def _apply(self, images: Tensor, position: int) -> Tensor:
        """Transform ``position`` of images ``(..., H, W)``, which have passed ``_check``."""

    def __len__(self) -> int:
        return len(self.names)

    def variant(self, images: Tensor, position: int) -> Tensor:
        """One transform of every image.

        Args:
            images: ``(..., H, W)``, at least 3 dimensions.
            position: Which transform, as in :attr:`names`.

        Returns:
            Tensor of the shape and dtype of ``images``.

        Raises:
            ValueError: If these are no images, or of a shape that cannot be transformed.
        """
        self._check(images)
        if not 0 <= position < len(self):
            raise ValueError(
                f"position must be from 0 to {len(self) - 1} for {len(self)} transforms, got "
                f"{position}."
            )
        return images if position == 0 else self._apply(images, position)

    def expand(self, images: Tensor) -> Tensor:
        """Every transform of every image, for small sets: V times the memory.

        Args:
            images: ``(N, C, H, W)``.

        Returns:
            ``(V, N, C, H, W)``, in the order of :attr:`names`.

        Raises:
            ValueError: As :meth:`variant`.
        """
        return torch.stack([self.variant(images, position) for position in range(len(self))])

    def variants(self, data: Dataset) -> Iterator[tuple[str, Dataset]]:
        """One transformed set after another, so that one at a time is in memory.

        A set on disk is transformed in the blocks in which it is read.

        Args:
            data: Images or clips.

        Yields:
            The name of the transform, and the set; the first is ``data`` itself.

        Raises:
            ValueError: If ``data`` holds vectors or a table, or of a shape that cannot be
                transformed.
        """
        if data.kind not in ("images", "video"):
            raise ValueError(
                f"an invariance needs images, but {data.title} holds "
                f"{'a table' if data.kind == 'table' else data.kind}; leave it out."
            )
        for position, name in enumerate(self.names):
            if position == 0:
                yield name, data
            elif isinstance(data, StreamedDataset):
                self._check(data.x[:1])
                yield name, replace(data, x=data.x.map(partial(self.variant, position=position)))
            else:
                yield name, replace(data, x=self.variant(data.x, position))

    def _check(self, images: Tensor) -> None:
        """Raise where the shape cannot be transformed."""
        if images.ndim < 3:
            raise ValueError(
                f"transforms apply to images (..., H, W), got shape {tuple(images.shape)}; leave "
                f"the invariance out for vectors and tables."
            )


@dataclass(frozen=True)
class Flip(Invariance):
    """Mirror images, left and right exchanged."""

    @property
    def names(self) -> tuple[str, ...]:
        """``identity``, ``flip``."""
        return ("identity", "flip")

    @property
    def exact(self) -> bool:
        """True."""
        return True

    def _apply(self, images: Tensor, position: int) -> Tensor:
        return images.flip(-1)


@dataclass(frozen=True)
class Rotate90(Invariance):
    """Quarter turns of square images, counter-clockwise."""

    @property
    def names(self) -> tuple[str, ...]:
        """``identity``, ``rotate90``, ``rotate180``, ``rotate270``."""
        return ("identity", "rotate90", "rotate180", "rotate270")

    @property
    def exact(self) -> bool:
        """True."""
        return True

    def _check(self, images: Tensor) -> None:
        super()._check(images)
        h, w = images.shape[-2:]
        if h != w:
            raise ValueError(f"rotate90 needs square images, got {h} x {w}; leave it out.")

    def _apply(self, images: Tensor, position: int) -> Tensor:
        return torch.rot90(images, position, dims=(-2, -1))


@dataclass(frozen=True)
class Shift(Invariance):
    """Shifts by whole pixels, up to ``pixels`` in each direction: ``(2 pixels + 1)^2`` variants.

    Attributes:
        pixels: Largest shift, at least 1 and less than the height and width of the images.
        padding: What enters at the border: ``"edge"`` repeats the outermost pixels, which is right
            for photographs and for objects on a plain background; ``"wrap"`` brings back what left
            at the opposite side, which is right for textures and periodic fields, and exact.

    Raises:
        ValueError: If an attribute is out of range.
    """

    pixels: int = 2
    padding: Literal["edge", "wrap"] = "edge"

    _MOST: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if (
            not isinstance(self.pixels, int)
            or isinstance(self.pixels, bool)
            or not 1 <= self.pixels <= self._MOST
        ):
            raise ValueError(
                f"pixels of a shift must be an integer from 1 to {self._MOST} ((2 pixels + 1)^2 "
                f"variants are searched), got {self.pixels!r}."
            )
        if self.padding not in ("edge", "wrap"):
            raise ValueError(f"padding must be 'edge' or 'wrap', got {self.padding!r}.")

    @property
    def _offsets(self) -> list[tuple[int, int]]:
        """(down, right), the shortest first."""
        reach = range(-self.pixels, self.pixels + 1)
        return sorted(product(reach, reach), key=lambda o: (o[0] ** 2 + o[1] ** 2, o))

    @property
    def names(self) -> tuple[str, ...]:
        """``identity``, then ``shift(down,right)`` with signs, the shortest first."""
        return ("identity", *(f"shift({a:+d},{b:+d})" for a, b in self._offsets[1:]))

    @property
    def exact(self) -> bool:
        """Whether the shifts wrap around (and then within the largest shift only)."""
        return self.padding == "wrap"

    def _check(self, images: Tensor) -> None:
        super()._check(images)
        h, w = images.shape[-2:]
        if self.pixels >= min(h, w):
            raise ValueError(
                f"a shift by {self.pixels} pixels leaves nothing of images of {h} x {w}; give a "
                f"smaller shift."
            )

    def _apply(self, images: Tensor, position: int) -> Tensor:
        down, right = self._offsets[position]
        if self.padding == "wrap":
            return images.roll((down, right), dims=(-2, -1))
        h, w = images.shape[-2:]
        rows = (torch.arange(h, device=images.device) - down).clamp_(0, h - 1)
        columns = (torch.arange(w, device=images.device) - right).clamp_(0, w - 1)
        return images.index_select(-2, rows).index_select(-1, columns)


@dataclass(frozen=True)
class Composition(Invariance):
    """Every combination of several invariances, applied in the order given.

    Flips, quarter turns and shifts permute each other's variants, so the order does not matter to
    the minimum.

    Attributes:
        parts: The invariances, at least one, each of another class.

    Raises:
        ValueError: If there is none, or two are of one class.
    """

    parts: Sequence[Invariance]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        kinds = [type(part).__name__ for part in self.parts]
        if not kinds or len(set(kinds)) != len(kinds):
            raise ValueError(
                f"parts of a composition must be at least one invariance, each of another class, "
                f"got {', '.join(kinds) or 'none'}."
            )

    @property
    def _positions(self) -> list[tuple[int, ...]]:
        return list(product(*(range(len(part)) for part in self.parts)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts joined by ``+``, as in ``flip+shift(+0,-1)``."""
        names = []
        for positions in self._positions:
            moved = [
                part.names[position]
                for part, position in zip(self.parts, positions, strict=True)
                if position
            ]
            names.append("+".join(moved) or "identity")
        return tuple(names)

    @property
    def exact(self) -> bool:
        """Whether every part is."""
        return all(part.exact for part in self.parts)

    def _check(self, images: Tensor) -> None:
        for part in self.parts:
            part._check(images)

    def _apply(self, images: Tensor, position: int) -> Tensor:
        for part, own in zip(self.parts, self._positions[position], strict=True):
            images = part.variant(images, own)
        return images


def parse_invariance(text: str) -> Invariance:
    """Read what ``--invariance`` takes: ``flip``, ``rotate90``, ``shift:2``, joined by commas.

    Args:
        text: The names.

    Returns:
        The invariance; of several, every combination.

    Raises:
        ValueError: If a name is unknown, doubled, or its number is not one.

    Example:
        >>> parse_invariance("flip,shift:1").names[8:11]
        ('shift(+1,+1)', 'flip', 'flip+shift(-1,+0)')
    """
    parts: list[Invariance] = []
    for item in text.split(","):
        noun, colon, number = item.strip().partition(":")
        if noun == "flip" and not colon:
            parts.append(Flip())
        elif noun == "rotate90" and not colon:
            parts.append(Rotate90())
        elif noun == "shift" and not colon:
            parts.append(Shift())
        elif noun == "shift" and number.isascii() and number.isdigit():
            parts.append(Shift(int(number)))
        else:
            raise ValueError(f"unknown invariance {item.strip()!r}; give {_OFFERED}.")
    if len({type(part) for part in parts}) != len(parts):
        raise ValueError(f"invariance {text!r} names one transform twice; give each once.")
    return parts[0] if len(parts) == 1 else Composition(parts)
