"""The page of an audit: complete, offline, of bounded size, and showing what was measured."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from memdiff.audit import audit
from memdiff.audit.page import compose
from memdiff.audit.page.limitations import limitations
from memdiff.audit.page.numbers import number, p_text, percent
from memdiff.audit.page.pairs import MOST_PAIRS, pair_blocks
from memdiff.audit.page.plots import RATIOS, closeness_plot, fractions, sensitivity_plot
from memdiff.audit.page.row_differences import Differences
from memdiff.audit.page.thumbnails import Thumbnails
from memdiff.data import Dataset
from memdiff.report import Figure, Gallery, Table, render

SECTIONS = (
    "advice",
    "tests",
    "measurements",
    "pairs",
    "copied",
    "extraction",
    "duplicates",
    "sensitivity",
    "limitations",
    "provenance",
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, seed, channels=1, side=6):
    x = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return x * 2 - 1


def with_images(copies=12, channels=1, **options):
    """Train with a duplicate, held-out data that overlap in one, and some mirrored copies."""
    train = torch.cat([images(80, 0, channels), images(80, 0, channels)[:1]])
    heldout = torch.cat([images(80, 1, channels), train[5:6]])
    generated = images(90, 2, channels)
    generated[:copies] = train[:copies].flip(-1)
    return audit(generated=generated, train=train, heldout=heldout, invariance="flip", **options)


@pytest.fixture(scope="module")
def pictured():
    return with_images(fail_above=0.01, sampler_settings={"sampler": "heun", "steps": 7})


@pytest.fixture(scope="module")
def document(pictured):
    return compose(pictured)


@pytest.fixture(scope="module")
def html(document):
    return render(document)


@pytest.fixture(scope="module")
def tabular(tmp_path_factory):
    """A table with categories; the first five samples copy training rows, one with a change."""
    import pandas

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tables")

    def frame(count):
        return pandas.DataFrame(
            {
                "age": rng.integers(18, 90, count),
                "job": rng.choice(["clerk", "nurse", "pilot"], count),
                "income": rng.lognormal(10, 1, count).round(2),
            }
        )

    train, heldout, generated = frame(150), frame(150), frame(150)
    generated.iloc[:5] = train.iloc[:5].values
    generated.loc[0, "age"] = train.loc[0, "age"] + 1
    for name, table in (("train", train), ("heldout", heldout), ("generated", generated)):
        table.to_csv(folder / f"{name}.csv", index=False)
    return audit(
        generated=folder / "generated.csv",
        train=folder / "train.csv",
        heldout=folder / "heldout.csv",
    )


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def written(result, tmp_path):
    path = result.to_html(tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


def blocks(document, kind):
    return [b for section in document.sections for b in section.blocks if isinstance(b, kind)]


def pixels(image):
    return np.asarray(Picture.open(io.BytesIO(image.png)).convert("RGB"))


def test_page_opens_offline_and_has_everything_in_order(pictured, html, tmp_path):
    text = written(pictured, tmp_path)
    assert text == html
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            target = attributes.get(name)
            if target is not None and not target.startswith(("data:", "#")):
                assert tag == "a" and target.startswith("https://arxiv.org/abs/"), target
    assert "default-src 'none'" in text
    keys = [a["id"] for tag, a in page.tags if tag == "section"]
    assert keys == [*SECTIONS, "references"]
    assert text.index('class="banner') < text.index("<figure") < text.index('id="advice"')


def test_banner_has_the_numbers_of_the_verdict(pictured, document):
    banner = document.lead[0]
    decision = pictured.decision
    assert (banner.tone, banner.text) == ("bad", decision.sentence)
    facts = list(banner.facts.values())
    assert facts[0] == p_text(decision.p_value)
    assert facts[1].startswith(f"{percent(decision.copied)} ({percent(decision.copied_low)} to")
    assert facts[2] == str(len(pictured.flagged))
    # 12 copies; two are of values that another training or held-out point holds too.
    assert set(pictured.flagged) == set(range(12)) - {0, 5}
    assert banner.facts["Gate at 1%"] == "failed"


def test_gallery_shows_the_images_of_the_pairs_pixel_by_pixel(pictured, document):
    """Catches pictures of the wrong set, the wrong index or the wrong range."""
    gallery = blocks(document, Gallery)[0]
    inputs = pictured.inputs
    assert len(gallery.items) == len(pictured.pairs)

    def expected(point):
        return ((point[0] + 1) / 2 * 255).round().to(torch.uint8).numpy()

    for pair, item in list(zip(pictured.pairs, gallery.items, strict=True))[:12]:
        shown = {image.label: pixels(image)[..., 0] for image in item.images}
        sample = inputs.generated.x[pair.sample]
        assert np.array_equal(shown["sample"], expected(sample))
        assert np.array_equal(shown["nearest train"], expected(inputs.train.x[pair.train]))
        assert np.array_equal(shown["nearest held-out"], expected(inputs.heldout.x[pair.heldout]))
        assert ("as flip" in shown) == (pair.variant == "flip")
        if pair.variant == "flip":
            assert np.array_equal(shown["as flip"], expected(sample.flip(-1)))
        assert item.values["distance"] == pair.distance
        assert item.values["held-out distance"] == pair.heldout_distance
        assert item.values["ratio r"] == pair.ratio
        assert item.values["flagged"] == pair.flagged


def test_duplicates_overlap_and_sampler_settings_are_told(pictured, html):
    text = " ".join("".join(Page(html).text).split())
    assert "1 of the 81 training points repeat others" in text
    assert "1 held-out points equal a training point (index 80)" in text
    assert "How the samples were made" in text and "heun" in text
    for data in pictured.inputs.sets.values():
        assert data.sha256 in text


def test_references_are_those_cited_and_no_others(html):
    page = Page(html)
    cited = {a["href"][1:] for tag, a in page.tags if a.get("class") == "cite"}
    listed = {a["id"] for tag, a in page.tags if tag == "li" and "id" in a}
    assert cited == listed
    for key in ("Elias07", "Barber15", "Carlini23", "A22"):
        assert f"reference-{key}" in listed
    assert "reference-Somepalli23" not in listed  # no cosine similarity was measured


def test_many_flagged_large_images_are_capped(pictured, tmp_path):
    """300 flagged pairs of noise, which does not compress, in three channels."""
    shape = (300, 3, 160, 160)
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inputs = dataclasses.replace(
        pictured.inputs,
        **{
            name: Dataset(noise[: len(data)], "images", "signed")
            for name, data in pictured.inputs.sets.items()
        },
    )
    pair = dataclasses.replace(pictured.pairs[0], flagged=True)
    many = dataclasses.replace(pictured, inputs=inputs, pairs=[pair] * 300)
    text = written(many, tmp_path)
    assert len(text) < 5_000_000
    gallery = pair_blocks(many)[0]
    assert 10 < len(gallery.items) <= MOST_PAIRS
    assert f"Shown are {len(gallery.items)} of the 300 pairs" in text
    assert all(max(pixels(i).shape) <= 96 for i in gallery.items[0].images)
    small = dataclasses.replace(pictured, pairs=[pair] * 300)
    assert len(pair_blocks(small)[0].items) == MOST_PAIRS


def test_thumbnails_of_clips_transparency_and_free_ranges():
    clip = torch.stack([torch.full((1, 24, 24), v) for v in (-1.0, 0.9, -0.2, 0.8, 1.0)])
    data = Dataset(clip[None].repeat(2, 1, 1, 1, 1), "video", "signed")
    strip = pixels(Thumbnails(data).image(data, 0, "sample"))[..., 0]
    assert strip.shape == (24, 3 * 24 + 2)
    assert [strip[0, i] for i in (0, 24, 30, 60)] == [0, 255, 102, 255]  # first, gap, middle, last
    glass = torch.zeros(2, 4, 3, 3)
    glass[1, 3] = 1.0
    data = Dataset(glass, "images", "unit")
    seen = [pixels(Thumbnails(data).image(data, i, "x"))[0, 0].tolist() for i in range(2)]
    assert seen == [[255] * 3, [0] * 3]
    data = Dataset(normal(5, 2, 3, 3) * 100, "images", "free")
    assert len(np.unique(pixels(Thumbnails(data).image(data, 0, "latent")))) > 4


def test_rows_of_tables_show_where_pairs_differ(tabular):
    tables = {table.title: table for table in blocks(compose(tabular), Table)}
    listed = next(t for title, t in tables.items() if title.startswith("Samples that are closest"))
    notes = {re.match(r"sample (\d+)", row[0].text)[1]: row[0].note for row in listed.rows}
    assert notes["1"] == "differs nowhere"
    age = tabular.inputs.train.columns.index("age")
    before = int(tabular.inputs.train.x[0, age])
    assert notes["0"].startswith(f"differs in age: {before + 1} against {before} (−0.0")
    assert "job" not in notes["0"] and "income" not in notes["0"]
    changed = [pair for pair in tabular.pairs if pair.sample == 0]
    alone = compose(dataclasses.replace(tabular, pairs=changed))
    full = next(t for t in blocks(alone, Table) if "in full" in t.title)
    assert full.header == ("Row", "age", "job", "income")
    position = [row[0] for row in full.rows].index("nearest train 0")
    marks = [cell.text.startswith("≠") for cell in full.rows[position][1:]]
    assert marks == [True, False, False]


def test_differences_name_categories_and_measure_numbers_in_standard_deviations():
    x = torch.tensor([[0.0, 0.0, 7.0], [4.0, 1.0, 7.0]], dtype=torch.float64)
    train = Dataset(
        x, "table", columns=("a", "job", "same"), categories={"job": ("clerk", "nurse")}
    )
    compare = Differences(train)
    number, category, constant = compare(np.array([1.0, 0, 7]), np.array([2.0, 1, 8]))
    assert (number.size, number.change) == (0.5, "+0.5 s.d.")
    assert (category.first, category.second, category.differs) == ("clerk", "nurse", True)
    assert constant.differs and "constant" in constant.change
    assert compare.summary(x[0].numpy(), x[0].numpy()) == "nowhere"
    assert compare.summary(np.array([1.0, 0, 7]), np.array([1.0001, 0, 7])).startswith(
        "by at most"
    )


@pytest.mark.parametrize("width", [1, 40])
def test_vectors_of_any_width_with_and_without_held_out_data(width):
    train = normal(80, width)
    for name, options in (
        ("none", {"generated": normal(60, width, seed=1)}),
        ("all", {"generated": train[:50], "heldout": normal(80, width, seed=2)}),
    ):
        result = audit(train=train, **options)
        document = compose(result)
        render(document)
        assert ("No held-out data" in limitations(result)) == (name == "none")
        full = next(t for t in blocks(document, Table) if "in full" in t.title)
        assert len(full.header) == 1 + min(width, 10)
        assert "x[0]" in full.header or width > 10


def test_several_descriptors_each_have_their_tests_and_a_panel():
    result = with_images(features=["pixels", "dct:3"])
    document = compose(result)
    titles = [table.title for table in blocks(document, Table)]
    for name in ("pixels", "dct:3"):
        assert f"Tests by {name}" in titles and f"Further measurements by {name}" in titles
        assert f"Features {name}" in limitations(result)
    rule = next(t for t in blocks(document, Table) if "verdict" in t.title)
    assert [row[0].text for row in rule.rows] == ["pixels", "dct:3"]
    assert "times the number of descriptors (2)" in rule.note


def test_tests_show_the_p_values_that_the_verdict_rests_on(pictured, document):
    """Each test before the correction, the verdict after it; catches one for the other."""
    tables = {table.title: table for table in blocks(document, Table)}
    rule = {row[0].text: row for row in tables["From the tests to the verdict"].rows}
    many, smallest = len(pictured.evidence), []
    for entry in pictured.evidence:
        tests = entry.tests
        single = (tests.tail, tests.local, tests.cell, tests.share)
        assert [cell.sort for cell in rule[entry.name][1:5]] == [one.p_value for one in single]
        shown = {row[0].text: row[4] for row in tables[f"Tests by {entry.name}"].rows}
        assert shown["Tail test"].sort == tests.tail.p_value
        assert shown["Local exceedance"].sort == tests.local.p_value
        weighted = [tests.tail.p_value * 2.5, *(5 * one.p_value for one in single[1:])]
        smallest.append(min(1.0, many * min(weighted)))
        assert rule[entry.name][5].text == p_text(smallest[-1])
    assert pictured.decision.p_value == pytest.approx(min(smallest))


def test_measurements_are_shown_in_their_units_with_their_details(pictured, document):
    """Catches a share printed as a number, and details of another result."""
    entry = pictured.evidence[0]
    table = next(t for t in blocks(document, Table) if t.title == "Further measurements by pixels")
    rows = {row[0].text: row for row in table.rows}
    results = {one.title: one.result for one in entry.measurements}
    ratio = results["ratio test d1/d2"]
    shown = rows["Ratio test d1/d2 [Y23]"][1]
    assert shown.text == percent(ratio.value)
    assert f"threshold 0.333; by chance {percent(ratio.chance)} in" in shown.note
    copying = results["data copying C_T"]
    shown = rows["Data copying C_T [M20]"][1]
    assert shown.text == number(copying.value)
    assert f"; p = {p_text(copying.p_value)}" in shown.note
    fidelity = results["precision, recall, density, coverage"]
    note = rows["Precision, recall, density, coverage [N20]"][1].note
    recall, density = fidelity.recall, fidelity.density
    assert f"recall {percent(recall.value)}, expected {percent(recall.null.value)}" in note
    assert f"density {number(density.value)}" in note


def test_limitations_follow_from_the_inputs(pictured, tabular):
    assert "mirrored" not in limitations(pictured)["Features pixels"]
    assert "flip" in limitations(pictured)["Features pixels"]
    assert "category" in limitations(tabular)["Features table"]
    assert "about 437 could" in limitations(tabular)["Few samples"]
    assert "Few held-out points" not in limitations(tabular)
    few = audit(
        generated=normal(60, 4), train=normal(90, 4, seed=1), heldout=normal(15, 4, seed=2)
    )
    assert "6 training points for each" in limitations(few)["Few held-out points"]


@pytest.mark.parametrize(
    ("features", "words"), [("thumbnail:4", "registered"), ("onnx:m", "learned")]
)
def test_limitations_of_image_features_are_no_units_of_columns(pictured, features, words):
    """What is said of the features is about these, not about columns of numbers."""
    entry = pictured.evidence[0]
    renamed = dataclasses.replace(
        entry, features=dataclasses.replace(entry.features, name=features)
    )
    said = limitations(dataclasses.replace(pictured, evidence=(renamed,)))[f"Features {features}"]
    assert words in said and "column" not in said


def test_colour_images_with_nothing_flagged(tmp_path):
    result = with_images(copies=0, channels=3)
    assert not any(pair.flagged for pair in result.pairs)
    assert "nothing counts as extracted" in written(result, tmp_path)


def test_names_cannot_break_out_of_the_page(pictured, html):
    bad = "<script>alert(1)</script>"
    generated = dataclasses.replace(
        pictured.inputs.generated, names=(bad,) * len(pictured.inputs.generated), source=bad
    )
    result = dataclasses.replace(
        pictured,
        inputs=dataclasses.replace(pictured.inputs, generated=generated),
        pairs=[dataclasses.replace(pair, sample_name=bad) for pair in pictured.pairs],
    )
    hostile = Page(render(compose(result)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in Page(html).tags]


def test_sensitivity_passes_through_the_headline(pictured, document):
    entry = pictured.evidence[0]
    assert tuple(sorted(RATIOS)) == RATIOS
    found = {one.ratio: one for one in fractions(entry.tests)}
    headline = found[entry.tests.fraction.ratio]
    assert headline.value == entry.tests.fraction.value == pictured.decision.copied
    assert headline.interval == entry.tests.fraction.interval
    axes = sensitivity_plot(pictured.evidence).axes
    for one, panel in zip(pictured.evidence, axes, strict=True):
        line = next(line for line in panel.lines if line.get_label() == "estimate")
        x, y = line.get_data()
        expected = [100 * part.value for part in fractions(one.tests, x.tolist())]
        np.testing.assert_allclose(y, expected)
    table = next(t for t in blocks(document, Table) if "degrees of closeness" in t.title)
    assert len(table.rows) == len(RATIOS)


def test_headline_figure_counts_samples_on_train_and_on_decoys_times_the_odds():
    """Bars against a count by hand, from sets with twice as many training points."""
    generated, train, heldout = normal(60, 3), normal(80, 3, seed=1), normal(40, 3, seed=2)
    entry = audit(generated=generated, train=train, heldout=heldout).evidence[0]
    distance = torch.cdist(generated.double(), torch.cat([train, heldout]).double())
    near = distance.sort(1)
    ratios = (near.values[:, 0] / near.values[:, 1]).numpy()
    on_train = (near.indices[:, 0] < 80).numpy()
    bars = closeness_plot(entry).axes[0].containers
    decoys, targets = ([bar.get_height() for bar in group] for group in bars)
    edges = np.linspace(0, 1, len(targets) + 1)
    expected = np.histogram(ratios[on_train], edges)[0] * 100 / 60
    np.testing.assert_allclose(targets, expected)
    np.testing.assert_allclose(decoys, np.histogram(ratios[~on_train], edges)[0] * 200 / 60)


@pytest.mark.parametrize("heldout", [normal(300, 3, seed=2), normal(100, 3, seed=2)])
def test_title_of_the_headline_figure_is_not_cut(heldout):
    train = normal(300, 3)
    figure = closeness_plot(audit(generated=train, train=train, heldout=heldout).evidence[0])
    figure.canvas.draw()
    width = figure.get_window_extent().width
    for axes in figure.axes:
        for title in (axes.get_title("left"), axes.get_title()):
            assert len(title) < 160
        for text in (axes._left_title, axes.title, axes.xaxis.label):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= width


def test_headline_figure_copes_with_every_kind_of_distances():
    train, fresh = normal(30, 2), normal(30, 2, seed=1)
    for generated, heldout in (
        (train, train),
        (train, fresh),
        (fresh, train),
        (fresh, fresh),
        (train + 1e-9, fresh),
        (fresh * 1e6, fresh),
    ):
        entry = audit(generated=generated, train=train, heldout=heldout).evidence[0]
        plot = closeness_plot(entry)
        Figure("f", plot, "caption", "alt")  # draws it
        bars = [bar.get_height() for group in plot.axes[0].containers for bar in group]
        assert sum(bars) == pytest.approx(100.0)  # every sample, on train or on a decoy


def test_png_of_a_page_is_what_a_browser_needs(html):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(found) > 50
    for data in (found[0], found[-1]):
        Picture.open(io.BytesIO(base64.b64decode(data))).verify()
