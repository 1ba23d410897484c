"""Figures: the same bytes each time, no global state, pixels where they belong."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from memdiff.report.document import Figure, Image, Table, png_size
from memdiff.report.figures import (
    BLUE,
    PALETTE,
    VERMILION,
    Curve,
    curve_plot,
    figure_png,
    new_figure,
    new_panels,
)
from memdiff.report.pictures import ImageRow, image_grid, image_png


def pixels(png):
    return np.asarray(Picture.open(io.BytesIO(png)).convert("RGB"))


def count(image, color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image.astype(int) - rgb).max(axis=-1) <= 2).sum())


def test_drawing_is_repeatable_and_leaves_no_global_state():
    before = dict(matplotlib.rcParams)

    def draw():
        return figure_png(
            curve_plot(
                [Curve([1, 10], [1, 0.1], "a", low=[0.8, 0.05], high=[1.2, 0.2])],
                xlabel="N",
                ylabel="error",
            )
        )

    assert draw() == draw()
    assert dict(matplotlib.rcParams) == before


def test_curves_take_the_palette_in_order_and_intervals_are_drawn():
    curves = [Curve([1, 10], [1, 2], "a", style="plain"), Curve([1, 10], [2, 1], "b")]
    figure = curve_plot(curves, xlabel="x", ylabel="y", yscale="linear")
    axes = figure.axes[0]
    assert [line.get_color() for line in axes.lines] == list(PALETTE[:2])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert not axes.collections
    with_band = curve_plot([Curve([1, 2], [1, 2], low=[0, 1], high=[2, 3])], xlabel="", ylabel="")
    low = with_band.axes[0].collections[0].get_paths()[0].get_extents()
    assert (low.ymin, low.ymax) == (0, 3)


def test_nothing_to_show_on_a_logarithmic_axis_is_an_error():
    with pytest.raises(ValueError, match=r"no positive y.*yscale='linear'"):
        curve_plot([Curve([1, 2], [0, 0], "zero")], xlabel="x", ylabel="y")


def test_figure_size_is_css_inches():
    figure, _ = new_figure(width=5.0, height=3.0)
    shown = Figure("f", figure, "caption", "alt")
    assert png_size(shown.png) == (960, 576) and shown.size == (480, 288)
    assert Figure("f", shown.png, "c", "a", width=100).size == (100, 60)
    _, axes = new_panels(2, 3)
    assert axes.shape == (2, 3)


def test_titles_keep_the_style():
    figure, axes = new_figure()
    axes.set(title="title")
    figure_png(figure)
    assert axes.title.get_fontsize() == 10.5


def test_image_png_is_pixel_exact_and_clips():
    image = torch.tensor([[[-1.0, 0.0, 1.0], [3.0, -9.0, float("nan")]]])
    grey = pixels(image_png(image, (-1.0, 1.0)))
    assert grey[..., 0].tolist() == [[0, 128, 255], [255, 0, 0]]
    color = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = (255 * color).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(image_png(color)), expected)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        image_png(torch.zeros(2, 4, 4))


def test_large_images_shrink_to_the_side_asked_for_and_small_ones_stay():
    large = pixels(image_png(torch.full((3, 40, 20), 0.2), max_side=10))
    assert large.shape[:2] == (10, 5) and (large == 51).all()
    assert pixels(image_png(torch.zeros(1, 6, 4), max_side=10)).shape[:2] == (6, 4)


def test_image_grid_shows_every_image_once_at_the_same_size_and_frames_the_marked():
    colors = ("#FF0000", "#00FF00", "#0000FF", "#FF00FF")
    values = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors])
    images = values[:, :, None, None].expand(-1, 3, 4, 4)
    plain = image_grid([ImageRow(images[:2], "samples"), ImageRow(images[2:], "train")])
    shown = pixels(figure_png(plain))
    areas = np.array([count(shown, c) for c in colors])
    assert areas.min() > 10_000 and areas.max() / areas.min() < 1.02
    rows, columns = zip(
        *(np.argwhere((shown == _rgb(c)).all(-1)).mean(0) for c in colors), strict=True
    )
    assert rows[0] == pytest.approx(rows[1], abs=1) and rows[0] < rows[2]
    assert columns[0] == pytest.approx(columns[2], abs=1) and columns[0] < columns[1]
    assert count(shown, VERMILION) == 0
    marked = image_grid([ImageRow(images, captions=["x"] * 4, marked=[True, False, False, False])])
    assert count(pixels(figure_png(marked)), VERMILION) > 500


def _rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def test_image_grid_refuses_what_does_not_match():
    images = torch.zeros(3, 1, 4, 4)
    with pytest.raises(ValueError, match="row 0 has 3 images and 2 captions"):
        image_grid([ImageRow(images, captions=["a", "b"])])
    with pytest.raises(ValueError, match="no image"):
        image_grid([])


def test_blocks_refuse_bad_input():
    figure = image_png(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="no alt text"):
        Figure("f", figure, "caption", " ")
    with pytest.raises(ValueError, match="name of a file"):
        Figure("../f", figure, "caption", "alt")
    with pytest.raises(ValueError, match="must hold a PNG"):
        Figure("f", b"GIF89a", "caption", "alt")
    with pytest.raises(ValueError, match="must hold a PNG"):
        Image(b"", "label", "alt")
    with pytest.raises(ValueError, match="row 1 has 1 cells and the header has 2"):
        Table("t", ("a", "b"), [(1, 2), (1,)])


def _luminance(color):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgb(color) / 255
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_colors_have_aa_contrast_in_both_schemes():
    import re
    from importlib import resources

    style = (resources.files("memdiff.report") / "templates/style.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for name in ("ink", "muted", "accent", "good", "bad", "caution", "neutral"):
            for ground in ("paper", "faint"):
                assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    assert _contrast(BLUE, "#ffffff") > 4.5  # the first line of every plot


def test_a_figure_is_lighter_and_looks_the_same(monkeypatch):
    from memdiff.report import figures

    x = np.linspace(0.01, 1.0, 50)
    curves = [Curve(x, 1.5 + np.sin(k * x), label=f"k = {k}") for k in range(1, 6)]
    lighten = figures._lightened
    light = figures.figure_png(figures.curve_plot(curves, xlabel="x", ylabel="y"))
    monkeypatch.setattr(figures, "_lightened", lambda png: png)
    full = figures.figure_png(figures.curve_plot(curves, xlabel="x", ylabel="y"))
    assert light == lighten(full) and len(light) < 0.6 * len(full)
    one, other = (
        np.asarray(Picture.open(io.BytesIO(png)).convert("RGB"), dtype=int)
        for png in (light, full)
    )
    assert one.shape == other.shape and np.abs(one - other).mean() < figures.MEAN_ERROR
    assert np.quantile(np.abs(one - other), 0.999) <= figures.LARGEST_ERROR


def test_colours_that_a_palette_would_lose_are_kept():
    from memdiff.report import figures

    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(noise).save(buffer, "PNG")
    assert figures._lightened(buffer.getvalue()) == buffer.getvalue()
