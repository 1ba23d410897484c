"""A :class:`~memdiff.report.document.Document` as one HTML file that needs no network.

Style, script and pictures are inside the file, and its content security policy forbids every
load. All text is escaped; the script and the style run by their hash, so nothing that a data set
smuggles into a caption or a file name can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from memdiff.report.document import (
    Block,
    Cell,
    CellValue,
    Document,
    Figure,
    Gallery,
    KeyValues,
    Section,
    Table,
)
from memdiff.report.references import REFERENCES, Reference, reference

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["format_number", "render", "write_html"]

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_UNDECODABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_CITATION = re.compile(r"\[([A-Z][A-Za-z]*\d\d)\]")
_CODE = re.compile(r"`([^`]+)`")
_DASH = "–"


def format_number(value: float) -> str:
    """A number as it is printed: four significant digits, powers of ten below 1e-3 and from 1e5.

    >>> format_number(0.98765), format_number(3.1623e-4), format_number(1e-5), format_number(50000)
    ('0.9877', '3.162 × 10⁻⁴', '10⁻⁵', '50,000')
    """
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        plain = f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        return plain.replace("-", "−")
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    if mantissa in ("1", "-1"):
        return power if mantissa == "1" else f"−{power}"
    return f"{mantissa.replace('-', '−')} × {power}"


def _text(value: str | int | float | bool | None) -> str:
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format_number(value)


@dataclass
class _Numbering:
    """Counts figures, tables and galleries, and numbers citations in order of appearance."""

    figures: int = 0
    tables: int = 0
    galleries: int = 0
    cited: list[str] = field(default_factory=list)

    def cite(self, key: str) -> int:
        if key not in self.cited:
            self.cited.append(key)
        return self.cited.index(key) + 1


@dataclass(frozen=True)
class _Block:
    kind: str
    source: Block
    number: int = 0
    columns: Sequence[dict[str, Any]] = ()
    rows: Sequence[Sequence[Cell]] = ()
    items: Sequence[Any] = ()
    keys: Sequence[str] = ()
    facets: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class _Section:
    key: str
    number: str
    title: str
    blocks: Sequence[_Block]
    sections: Sequence[_Section]


def render(document: Document) -> str:
    """Turn a document into HTML.

    Args:
        document: The document.

    Returns:
        The text of one self-contained HTML file.

    Raises:
        ValueError: If two sections share a key, or a reference in ``document.references`` is
            unknown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    numbering = _Numbering()
    environment = Environment(
        loader=PackageLoader("memdiff.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = lambda text: _inline(text, numbering)
    environment.filters["prose"] = lambda text: _prose(text, numbering)
    environment.filters["data_uri"] = _data_uri

    folder = resources.files("memdiff.report") / "templates"
    style = (folder / "style.css").read_text("utf-8")
    script = (folder / "script.js").read_text("utf-8")
    lead = [_view(block, numbering) for block in document.lead]
    sections = _sections(document.sections, numbering)
    _number_citations(document, numbering)
    for key in document.references:
        numbering.cite(reference(key).key)
    references: list[Reference] = [REFERENCES[key] for key in numbering.cited]
    return environment.get_template("document.html.j2").render(
        document=document,
        lead=lead,
        sections=sections,
        contents=sections,
        references=references,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def write_html(document: Document, path: str | Path) -> None:
    """Write a document to an HTML file, by a temporary name that is renamed.

    Args:
        document: The document.
        path: The file.
    """
    from memdiff.run.writing import replace_file

    text = render(document)
    with replace_file(Path(path)) as temporary:
        temporary.write_text(_UNDECODABLE.sub(_written_out, text), encoding="utf-8")


def _written_out(found: re.Match[str]) -> str:
    """A control character, or a byte of a file name that is no UTF-8."""
    return f"\\x{ord(found[0]) & 0xFF:02x}"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _inline(text: str, numbering: _Numbering) -> Markup:
    from markupsafe import Markup, escape

    def link(match: re.Match[str]) -> str:
        key = match[1]
        if key not in REFERENCES:
            return match[0]
        return f'<a class="cite" href="#reference-{key}">[{numbering.cite(key)}]</a>'

    parts = _CODE.split(str(text))
    marked = [
        Markup("<code>{}</code>").format(part)
        if index % 2
        else Markup(_CITATION.sub(link, str(escape(part))))
        for index, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _prose(text: str, numbering: _Numbering) -> Markup:
    from markupsafe import Markup

    paragraphs = [part for part in re.split(r"\n\s*\n", text.strip()) if part]
    return Markup("\n").join(
        Markup("<p>{}</p>").format(_inline(part, numbering)) for part in paragraphs
    )


def _sections(
    sections: Sequence[Section],
    numbering: _Numbering,
    prefix: str = "",
    keys: set[str] | None = None,
) -> list[_Section]:
    keys = {"content", "references"} if keys is None else keys
    views = []
    for index, section in enumerate(sections, start=1):
        number = f"{prefix}{index}"
        key = section.key or f"section-{number.replace('.', '-')}"
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key) or key in keys:
            raise ValueError(
                f"section {section.title!r} has the key {key!r}; give each section its own key of "
                "letters, digits and hyphens, other than 'content' and 'references'."
            )
        keys.add(key)
        blocks = [_view(block, numbering) for block in section.blocks]
        inner = _sections(section.sections, numbering, f"{number}.", keys)
        views.append(_Section(key, number, section.title, blocks, inner))
    return views


def _view(block: Block, numbering: _Numbering) -> _Block:
    kind = type(block).__name__
    if isinstance(block, Figure):
        numbering.figures += 1
        return _Block(kind, block, number=numbering.figures)
    if isinstance(block, Table):
        numbering.tables += 1
        columns = [
            {"title": title, "numeric": _is_numeric([row[index] for row in block.rows])}
            for index, title in enumerate(block.header)
        ]
        rows = [[_cell(value) for value in row] for row in block.rows]
        return _Block(kind, block, number=numbering.tables, columns=columns, rows=rows)
    if isinstance(block, KeyValues):
        return _Block(kind, block, items=[(name, _text(v)) for name, v in block.items.items()])
    if isinstance(block, Gallery):
        numbering.galleries += 1
        keys: dict[str, None] = {}
        items = []
        for item in block.items:
            keys.update(dict.fromkeys(item.values))
            items.append(
                {
                    "title": item.title,
                    "images": item.images,
                    "facts": [(name, _text(value)) for name, value in item.values.items()],
                    "sort_json": json.dumps(
                        {name: _sort_value(value) for name, value in item.values.items()}
                    ),
                    "facet_json": json.dumps(
                        {n: _text(item.values[n]) for n in block.facets if n in item.values}
                    ),
                }
            )
        return _Block(
            kind,
            block,
            number=numbering.galleries,
            items=items,
            keys=tuple(keys),
            facets=_facets(block),
        )
    return _Block(kind, block)


def _facets(gallery: Gallery) -> list[tuple[str, Sequence[str]]]:
    """The choices of each facet, in order of appearance; a facet with one choice is none."""
    found: list[tuple[str, Sequence[str]]] = []
    for name in gallery.facets:
        choices = dict.fromkeys(
            _text(item.values[name]) for item in gallery.items if name in item.values
        )
        if len(choices) > 1:
            found.append((name, tuple(choices)))
    return found


def _is_numeric(values: Iterable[CellValue]) -> bool:
    found = False
    for value in values:
        plain = value.sort if isinstance(value, Cell) and value.tone is None else value
        if plain is None:
            continue
        if isinstance(plain, bool) or not isinstance(plain, (int, float)):
            return False
        found = True
    return found


def _sort_value(value: str | int | float | bool | None) -> str | float | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value) if isinstance(value, bool) else value


def _cell(value: CellValue) -> Cell:
    if isinstance(value, Cell):
        return replace(value, sort=value.text if value.sort is None else value.sort)
    plain = _sort_value(value)
    return Cell(_text(value), sort="" if plain is None else plain)


def _number_citations(document: Document, numbering: _Numbering) -> None:
    """Number the citations in reading order before any text is rendered."""

    def visit(value: object) -> None:
        if isinstance(value, str):
            for key in _CITATION.findall(_CODE.sub("", value)):
                if key in REFERENCES:
                    numbering.cite(key)
        elif isinstance(value, dict):
            visit(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif isinstance(value, (Section, Cell, *_BLOCKS)):
            for item in vars(value).values():
                visit(item)

    visit(document.subtitle)
    visit(list(document.lead))
    visit(list(document.sections))
    visit(document.footer)


_BLOCKS: tuple[type, ...] = get_args(Block)
