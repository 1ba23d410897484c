"""The parts of a report: a :class:`Document` of :class:`Section` s of blocks.

A document says what is to be read and nothing about how it looks; :mod:`memdiff.report.html` turns
it into one file. Every text is plain text. Three marks are understood in running text: backticks
for ``code``, a blank line between two paragraphs, and a key of
:mod:`memdiff.report.references` in brackets, such as ``[B25]``, which becomes a numbered link to
the list of references.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

__all__ = [
    "Banner",
    "Block",
    "Callout",
    "Cell",
    "CellValue",
    "Document",
    "Figure",
    "Gallery",
    "GalleryItem",
    "Image",
    "KeyValues",
    "Paragraph",
    "Section",
    "Table",
    "Tone",
]

Tone: TypeAlias = Literal["good", "bad", "caution", "neutral"]


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels of a PNG file, read from its header.

    Raises:
        ValueError: If ``png`` does not start with a PNG header.
    """
    if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise ValueError(
            f"png must hold a PNG file, got {len(png)} bytes that start with {png[:8]!r}; "
            "pass a matplotlib Figure or the bytes of a .png file."
        )
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _encode(image: Plot | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    from memdiff.report.figures import figure_png

    return figure_png(image)


@dataclass(frozen=True)
class Paragraph:
    """Running text; a blank line starts a new paragraph."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A numbered figure with a caption.

    Attributes:
        name: Short file name without extension, such as ``"fraction"``; letters, digits, hyphens.
        image: A ``matplotlib.figure.Figure``, drawn at once, or the bytes of a PNG file.
            After construction it is always the bytes.
        caption: What is seen, with units; ends with a full stop.
        alt: What a reader who cannot see the figure needs to know: its axes and its finding.
        width: Displayed width in CSS pixels; half the pixel width by default, which is the size
            of a figure made by :func:`memdiff.report.figures.new_figure` in CSS inches.

    Raises:
        ValueError: If the name is no file name, the alternative text is empty or the image is
            no PNG.
    """

    name: str
    image: Plot | bytes
    caption: str
    alt: str
    width: int | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ValueError(
                f"Figure name must be letters, digits, hyphens and underscores, got "
                f"{self.name!r}; it becomes the name of a file."
            )
        if not self.alt.strip():
            raise ValueError(
                f"Figure {self.name!r} has no alt text; say in a sentence what the figure shows."
            )
        png = _encode(self.image)
        png_size(png)
        object.__setattr__(self, "image", png)

    @property
    def png(self) -> bytes:
        """The figure as a PNG file."""
        assert isinstance(self.image, bytes)
        return self.image

    @property
    def size(self) -> tuple[int, int]:
        """Displayed width and height in CSS pixels."""
        width, height = png_size(self.png)
        shown = self.width if self.width is not None else max(1, round(width / 2))
        return shown, max(1, round(shown * height / width))


@dataclass(frozen=True)
class Cell:
    """A table cell that needs more than a value.

    Attributes:
        text: What is printed.
        tone: Colour of the text as a mark of agreement; never the only carrier of the meaning.
        link: Key of the :class:`Section` that the text links to.
        label: Text read aloud in place of ``text``, such as ``"agrees"`` for a tick.
        sort: Value by which a sortable table orders the cell; ``text`` by default.
        note: Smaller text under it.
    """

    text: str
    tone: Tone | None = None
    link: str | None = None
    label: str | None = None
    sort: float | str | None = None
    note: str = ""


CellValue: TypeAlias = str | int | float | bool | Cell | None


@dataclass(frozen=True)
class Table:
    """A numbered table.

    Attributes:
        title: Caption of the table.
        header: Column titles, with units.
        rows: Rows of strings, numbers, booleans, None (printed as an en dash) or :class:`Cell`.
            Numbers are printed with four significant digits and aligned right.
        note: Text under the table.
        sortable: Whether the reader can sort by a click on a column title.
        stacked: Whether a narrow screen shows a row as a card of title-value lines.

    Raises:
        ValueError: If a row has another length than the header.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    note: str = ""
    sortable: bool = False
    stacked: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", tuple(self.header))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(
                    f"Table {self.title!r}: row {index} has {len(row)} cells and the header has "
                    f"{len(self.header)}; give every row one cell a column."
                )


@dataclass(frozen=True)
class KeyValues:
    """A list of named values, such as settings or provenance; None prints as an en dash.

    Attributes:
        items: The values by name.
        title: Name of the list for a screen reader.
        prose: Whether the values are running text and not settings.
    """

    items: Mapping[str, str | int | float | bool | None]
    title: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Callout:
    """A short remark set apart from the text.

    Attributes:
        text: The remark.
        title: Its heading.
        tone: Its colour.
    """

    text: str
    title: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Banner:
    """The verdict of a report, at its top.

    Attributes:
        verdict: A few words, such as ``"memorizing"``.
        text: One to three sentences with the numbers that carry it.
        tone: Its colour.
        facts: The few numbers that a reader looks for, by name, set large under the text.
    """

    verdict: str
    text: str
    tone: Tone = "neutral"
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """One small picture of a :class:`Gallery`.

    Attributes:
        png: Bytes of a PNG file, shown enlarged without smoothing.
        label: Text under the picture, such as ``"nearest train"``.
        alt: Alternative text.
    """

    png: bytes
    label: str
    alt: str

    def __post_init__(self) -> None:
        png_size(self.png)


@dataclass(frozen=True)
class GalleryItem:
    """Pictures that are to be compared, such as a sample and its nearest training image.

    Attributes:
        images: The pictures, from left to right.
        title: Heading of the item.
        values: Numbers and words by which a reader sorts and filters, such as ``distance``.
    """

    images: Sequence[Image]
    title: str
    values: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """A gallery of comparisons that can be sorted by any value and filtered.

    Attributes:
        title: Its title.
        items: The comparisons.
        note: Text under it.
        strips: Whether pictures are wide, such as strips of frames, and stand one under another
            instead of side by side.
        facets: Names of values with few different ones, such as ``"flagged"``, that a reader
            filters by; besides, any text filters.
    """

    title: str
    items: Sequence[GalleryItem]
    note: str = ""
    strips: bool = False
    facets: Sequence[str] = ()


Block: TypeAlias = Paragraph | Figure | Table | KeyValues | Callout | Banner | Gallery


@dataclass(frozen=True)
class Section:
    """A numbered section.

    Attributes:
        title: Heading.
        blocks: Content in reading order.
        key: Anchor, unique in the document; letters, digits, hyphens.
        sections: Subsections, one level deep.
    """

    title: str
    blocks: Sequence[Block] = ()
    key: str = ""
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: Title.
        subtitle: One line under the title.
        lead: Blocks before the first section: a banner, an abstract.
        sections: Numbered sections.
        references: Keys of references to list in addition to those cited in the text.
        footer: Last line of the page.
        language: Language of the text as a BCP 47 tag.
    """

    title: str
    subtitle: str = ""
    lead: Sequence[Block] = ()
    sections: Sequence[Section] = ()
    references: Sequence[str] = ()
    footer: str = ""
    language: str = "en"
