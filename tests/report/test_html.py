"""The HTML of a report: self-contained, escaped, numbered, accessible."""

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from memdiff.report import (
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
    render,
    write_html,
)
from memdiff.report.html import format_number

HOSTILE = "</script><script>alert(1)</script>\"'><img src=//x onerror=alert(1)>{{ 7*7 }}</style>"


def png(size=(6, 4)):
    buffer = io.BytesIO()
    Picture.fromarray(np.zeros((size[1], size[0]), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def full_document(text="plain text"):
    """One of every block, with ``text`` in every place that takes text."""
    blocks = (
        Banner(text, text, "bad", {text: text}),
        Paragraph(text),
        Figure("one", png(), text, text),
        Table(
            text,
            (text, "value", "mark"),
            (
                (text, 2.0, Cell(text, "good", label=text, note=text)),
                (None, 1.0, Cell(text, link="second")),
                (True, None, text),
            ),
            text,
            sortable=True,
            stacked=True,
        ),
        KeyValues({text: text, "number": 3}, text),
        KeyValues({"asked": text}, text, prose=True),
        Callout(text, text, "caution"),
        Gallery(
            text,
            [
                GalleryItem([Image(png(), text, text)], text, {text: text, "distance": 0.5}),
                GalleryItem([Image(png(), text, text)], text, {"distance": float("nan")}),
                GalleryItem([], text, {text: "another"}),
            ],
            text,
            strips=True,
            facets=(text,),
        ),
    )
    return Document(
        text,
        text,
        lead=blocks,
        sections=[
            Section(text, blocks, key="first", sections=[Section(text, [Paragraph(text)])]),
            Section(text, [Paragraph("See [B25] and [K22].")], key="second"),
        ],
        footer=text,
    )


class Page(HTMLParser):
    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.raw = [], [], [], {"style": "", "script": ""}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]] += data
        else:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_nothing_is_loaded_from_outside():
    page = Page(render(full_document()))
    assert not page.open
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            target = attributes.get(name)
            if target is None:
                continue
            if tag == "a":
                assert target.startswith(("#", "https://arxiv.org/abs/"))
            else:
                assert target.startswith("data:"), (tag, name, target)
    assert not re.search(r"url\(|@import|//", page.raw["style"].replace("\\2195", ""))
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", page.raw["script"])


def test_policy_forbids_loads_and_allows_exactly_this_script_and_style():
    page = Page(render(full_document()))
    policy = next(
        a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not any("style" in attributes for _, attributes in page.tags)  # the policy blocks them


def test_hostile_text_stays_text_in_every_place():
    plain, hostile = Page(render(full_document())), Page(render(full_document(HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert not any(n.startswith("on") for _, attributes in hostile.tags for n in attributes)
    assert "".join(hostile.text).count(HOSTILE) == "".join(plain.text).count("plain text") > 25


def test_citations_are_numbered_in_reading_order_and_listed_once():
    document = Document(
        "t",
        lead=[Paragraph("First [K22], `[M20]` is code, [X99] is nothing.")],
        sections=[
            Section("a", [Table("x", ("h",), [(Cell("v", note="[B25]"),)])]),
            Section("b", [KeyValues({"k": "again [K22], new [W24]"})]),
        ],
        references=["Ba23", "B25"],
    )
    page = Page(render(document))
    cited = [(a["href"]) for a in page.all("a") if a.get("class") == "cite"]
    assert cited == [f"#reference-{key}" for key in ("K22", "B25", "K22", "W24")]
    listed = [a["id"] for a in page.all("li") if a.get("id")]
    assert listed == [f"reference-{key}" for key in ("K22", "B25", "W24", "Ba23")]
    text = "".join(page.text)
    assert "First [1]," in text and "again [1], new [3]" in text and "[X99]" in text
    with pytest.raises(ValueError, match="unknown reference 'No1'"):
        render(dataclasses.replace(document, references=["No1"]))


def test_links_resolve_ids_are_unique_images_have_alternatives_headings_do_not_skip():
    page = Page(render(full_document()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert page.all("img") and all(attributes["alt"] for attributes in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_cells_carry_their_sort_value_and_numbers_are_aligned():
    table = Table(
        "t", ("name", "p"), [("a", 1e-7), ("b", None), ("c", Cell("-", sort=2.5))], sortable=True
    )
    page = Page(render(Document("d", lead=[table])))
    cells = page.all("td")
    assert [cell["data-sort"] for cell in cells] == ["a", "1e-07", "b", "", "c", "2.5"]
    assert [cell.get("class") for cell in cells] == [None, "numeric"] * 3


def test_gallery_values_are_json_without_nan():
    page = Page(render(full_document()))
    values = [json.loads(a["data-values"]) for a in page.all("li") if "data-values" in a]
    assert values[0] == {"plain text": "plain text", "distance": 0.5}
    assert values[1] == {"distance": None}


def test_facets_offer_the_values_that_occur_and_cards_carry_theirs():
    items = [
        GalleryItem([], str(i), {"flagged": i < 2, "kind": "one", "distance": 0.5 * i})
        for i in range(3)
    ]
    page = Page(
        render(Document("d", lead=[Gallery("g", items, facets=("flagged", "kind", "absent"))]))
    )
    assert [a["data-facet"] for a in page.all("select") if "data-facet" in a] == ["flagged"]
    values = [a["value"] for a in page.all("option") if a.get("value", "").startswith("=")]
    assert values == ["=yes", "=no"]
    cards = [json.loads(a["data-facets"]) for a in page.all("li") if "data-facets" in a]
    assert [card["flagged"] for card in cards] == ["yes", "yes", "no"]


def test_section_keys_must_be_distinct_and_usable():
    for keys in (("a", "a"), ("references", "b"), ("has space", "b")):
        with pytest.raises(ValueError, match="own key"):
            render(Document("d", sections=[Section("s", key=key) for key in keys]))


def test_failed_rendering_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    write_html(Document("first"), path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_html(Document("second", references=["No1"]), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def read_number(text):
    text = text.replace("−", "-").replace(",", "")
    power = re.fullmatch(r"(?:(-?[\d.]+) × |(-?))10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", text)
    if power is None:
        return float(text)
    exponent = power[3].translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    return float(f"{power[1] or power[2] + '1'}e{exponent}")


@given(st.floats(1e-300, 1e300), st.sampled_from([-1.0, 1.0]))
def test_printed_numbers_keep_four_digits(value, sign):
    assert read_number(format_number(sign * value)) == pytest.approx(sign * value, rel=5.1e-4)


def test_numbers_that_are_none():
    assert [format_number(v) for v in (float("inf"), -float("inf"), float("nan"), 0.0)] == [
        "∞",
        "−∞",
        "not a number",
        "0",
    ]
