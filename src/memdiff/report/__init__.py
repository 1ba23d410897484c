"""Reports: one self-contained HTML file that opens offline."""

from memdiff.report.document import (
    Banner,
    Callout,
    Cell,
    Document,
    Figure,
    Gallery,
    GalleryItem,
    Image,
    KeyValues,
    Paragraph,
    Section,
    Table,
)
from memdiff.report.html import render, write_html

__all__ = [
    "Banner",
    "Callout",
    "Cell",
    "Document",
    "Figure",
    "Gallery",
    "GalleryItem",
    "Image",
    "KeyValues",
    "Paragraph",
    "Section",
    "Table",
    "render",
    "write_html",
]
