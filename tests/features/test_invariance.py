"""Planted mirror images, shifts and turns are found at distance 0; and why queries suffice."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memdiff.data import from_array
from memdiff.features import (
    Composition,
    Flip,
    Pixels,
    Rotate90,
    Shift,
    parse_invariance,
)
from memdiff.neighbors import nearest

ALL = [
    Flip(),
    Rotate90(),
    Shift(1),
    Shift(2, "wrap"),
    Composition([Flip(), Rotate90()]),
    Composition([Flip(), Shift(1, "wrap"), Rotate90()]),
]


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(6, 3, 8, 8, generator=generator) * 2 - 1


def best(invariance, queries, train):
    """Smallest distance of each query over the variants, where, and under which name."""
    points = train.x.flatten(1)
    found = [
        (name, nearest(Pixels().features(data), points, 1))
        for name, data in invariance.variants(queries)
    ]
    distances = torch.stack([neighbors.distances[:, 0] for _, neighbors in found])
    which = distances.argmin(0)
    names = [found[int(v)][0] for v in which]
    indices = [int(found[int(v)][1].indices[i, 0]) for i, v in enumerate(which)]
    return distances.min(0).values, indices, names


def signed(x, name="data"):
    return from_array(x, name=name, encoding="signed", layout="channels_first")


def test_a_flipped_copy_has_distance_0_under_flip_only(noise):
    train = signed(noise, "train")
    queries = signed(noise[[2, 4]].flip(-1), "generated")
    plain = nearest(Pixels().features(queries), Pixels().features(train), 1)
    assert float(plain.distances.min()) > 1
    distances, indices, names = best(Flip(), queries, train)
    assert distances.tolist() == [0.0, 0.0]
    assert indices == [2, 4]
    assert names == ["flip", "flip"]


def test_turned_copies_are_found_with_the_turn_that_undoes_them(noise):
    train = signed(noise, "train")
    turned = signed(torch.stack([torch.rot90(noise[k], k, (-2, -1)) for k in range(4)]))
    distances, indices, names = best(Rotate90(), turned, train)
    assert distances.tolist() == [0.0] * 4
    assert indices == [0, 1, 2, 3]
    assert names == ["identity", "rotate270", "rotate180", "rotate90"]


def test_shifted_copies_on_a_plain_background_are_found(noise):
    x = torch.full((6, 3, 14, 14), -1.0)
    x[..., 3:11, 3:11] = noise
    train = signed(x, "train")
    moved = signed(x.roll((2, -1), dims=(-2, -1)), "generated")  # nothing but background wraps
    distances, indices, names = best(Shift(2), moved, train)
    assert distances.tolist() == [0.0] * 6
    assert indices == list(range(6))
    assert set(names) == {"shift(-2,+1)"}


def test_a_flipped_and_shifted_copy_needs_the_composition(noise):
    train = signed(noise, "train")
    queries = signed(noise[:1].flip(-1).roll((1, 1), dims=(-2, -1)))
    both = Composition([Flip(), Shift(1, "wrap")])
    assert float(best(Flip(), queries, train)[0]) > 1
    assert float(best(Shift(1, "wrap"), queries, train)[0]) > 1
    distances, _, names = best(both, queries, train)
    assert float(distances) == 0.0
    assert names == ["flip+shift(-1,+1)"]


@pytest.mark.parametrize("invariance", ALL, ids=repr)
def test_the_first_variant_is_the_identity_and_names_are_distinct(invariance, noise):
    assert invariance.names[0] == "identity"
    assert len(set(invariance.names)) == len(invariance)
    expanded = invariance.expand(noise)
    assert expanded.shape == (len(invariance), *noise.shape)
    assert torch.equal(expanded[0], noise)
    data = signed(noise)
    variants = list(invariance.variants(data))
    assert variants[0][1] is data
    assert [name for name, _ in variants] == list(invariance.names)
    for row, (_, variant) in zip(expanded, variants, strict=True):
        assert torch.equal(row, variant.x)
    assert len({variant.sha256 for _, variant in variants}) == len(invariance)


@pytest.mark.parametrize("invariance", [part for part in ALL if part.exact], ids=repr)
def test_transforming_the_queries_alone_suffices_where_it_is_said_to(invariance, noise):
    if isinstance(invariance, Shift):  # closed under inverse, not under composition
        group = invariance.expand(noise[:1]), noise[1:2]
        one = invariance.expand(group[1])
        a = torch.cdist(group[0].flatten(1).double(), group[1].flatten(1).double())
        b = torch.cdist(noise[:1].flatten(1).double(), one.flatten(1).double())
        torch.testing.assert_close(a.min(), b.min())
        return
    q, x = noise[:3], noise[3:]
    queries_only = torch.stack(
        [torch.cdist(v.flatten(1).double(), x.flatten(1).double()) for v in invariance.expand(q)]
    ).amin(0)
    points_only = torch.stack(
        [torch.cdist(q.flatten(1).double(), v.flatten(1).double()) for v in invariance.expand(x)]
    ).amin(0)
    torch.testing.assert_close(queries_only, points_only)


def test_edge_padding_is_said_not_to_be_exact():
    assert Shift(1, "wrap").exact
    assert not Shift(1).exact
    assert not Composition([Flip(), Shift(1)]).exact


@given(down=st.integers(-3, 3), right=st.integers(-3, 3), h=st.integers(4, 7), w=st.integers(4, 7))
@settings(max_examples=40, deadline=None)
def test_a_shift_moves_content_and_repeats_the_edge(down, right, h, w):
    image = torch.arange(h * w, dtype=torch.float32).reshape(1, 1, h, w)
    shift = Shift(3)
    names = ["identity" if (down, right) == (0, 0) else f"shift({down:+d},{right:+d})"]
    moved = shift.variant(image, shift.names.index(names[0]))
    for i in range(h):
        for j in range(w):
            from_i, from_j = min(max(i - down, 0), h - 1), min(max(j - right, 0), w - 1)
            assert moved[0, 0, i, j] == image[0, 0, from_i, from_j]


def test_clips_are_transformed_frame_by_frame(noise):
    clips = from_array(noise.reshape(2, 3, 3, 8, 8), encoding="signed", layout="channels_first")
    (_, flipped) = list(Flip().variants(clips))[1]
    assert flipped.kind == "video"
    assert torch.equal(flipped.x.reshape(6, 3, 8, 8), noise.flip(-1))


def test_parsing():
    assert parse_invariance("flip") == Flip()
    assert parse_invariance("shift") == Shift(2)
    assert parse_invariance("flip, shift:1,rotate90") == Composition(
        [Flip(), Shift(1), Rotate90()]
    )


@pytest.mark.parametrize(
    "text", ["", "flip,", "mirror", "shift:", "shift:x", "shift:-1", "flip:2", "shift:²"]
)
def test_unknown_invariances_are_refused(text, refusal):
    with refusal("invariance", "flip, rotate90, shift:PIXELS"):
        parse_invariance(text)


def test_impossible_invariances_are_refused(refusal, table, noise):
    with refusal("twice"):
        parse_invariance("flip,flip")
    with refusal("parts", "Flip, Flip"):
        Composition([Flip(), Flip()])
    with refusal("parts", "none"):
        Composition([])
    for pixels in (0, 17, 1.5, True):
        with refusal("pixels", repr(pixels)):
            Shift(pixels)
    with refusal("padding", "'zero'"):
        Shift(1, "zero")
    with refusal("square", "8 x 6"):
        Rotate90().expand(noise[..., :6])
    with refusal("square", "8 x 6"):
        Composition([Flip(), Rotate90()]).expand(noise[..., :6])
    with refusal("nothing", "8 x 8"):
        Shift(8).expand(noise)
    with refusal("images", "(3, 4)"):
        Flip().expand(torch.zeros(3, 4))
    with refusal("position", "2"):
        Flip().variant(noise, 2)
    with refusal("images", "train", "a table"):
        list(Flip().variants(table()))
    with refusal("images", "vectors"):
        list(Flip().variants(replace(signed(noise), kind="vectors")))
