"""What holds for every descriptor: batches, progress, encodings, fingerprints, refusals."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from memdiff.data import from_array
from memdiff.features import (
    DCT,
    PCA,
    Descriptor,
    Downscaled,
    Network,
    Pixels,
    Preprocessing,
    TableColumns,
    Thumbnail,
)
from memdiff.features.descriptor import signed_pixels
from memdiff.neighbors import nearest


def tiny_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten())


IMAGE_DESCRIPTORS = {
    "pixels": Pixels,
    "downscaled": lambda: Downscaled(5),
    "dct": lambda: DCT((4, 6)),
    "thumbnail": lambda: Thumbnail(5),
    "pca": lambda: PCA(5),
    "whitened": lambda: PCA(5, whiten=True),
    "network": lambda: Network(tiny_network(), name="tiny", preprocessing=Preprocessing()),
}


@pytest.fixture(params=IMAGE_DESCRIPTORS, ids=str)
def descriptor(request):
    return IMAGE_DESCRIPTORS[request.param]()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_features_do_not_depend_on_the_batch_size(descriptor, images, batch_size):
    data = images(count=20)
    fitted = descriptor.fit(data)
    whole = fitted.features(data, batch_size=20)
    assert whole.dtype == torch.float32
    assert len(whole) == 20
    rows = fitted.features(data, batch_size=batch_size)
    torch.testing.assert_close(rows, whole, rtol=1e-5, atol=1e-6)


def test_a_copy_has_the_same_bits_wherever_it_stands(descriptor, images):
    data = images(count=12)
    fitted = descriptor.fit(data)
    order = [3, 0, 5, 3, 7, 9, 3]  # in two batches of 4, the last not full
    rows = fitted.features(data.subset(order), batch_size=4)
    assert torch.equal(rows[0], rows[3])
    assert torch.equal(rows[0], rows[6])
    found = nearest(rows, fitted.features(data, batch_size=4), 1)
    assert found.indices.flatten().tolist() == order
    assert float(found.distances.max()) == 0.0


def test_rows_follow_the_order_of_the_points(descriptor, images):
    data = images(count=10)
    fitted = descriptor.fit(data)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    expected = fitted.features(data)[order]
    rows = fitted.features(data.subset(order))
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)


def test_progress_counts_points_and_ends_at_their_number(descriptor, images):
    data = images(count=10)
    calls = []
    descriptor.fit(data).features(
        data, batch_size=4, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (10, 10)
    assert calls == sorted(calls)


def test_use_does_not_change_a_descriptor_and_fit_returns_a_new_one(descriptor, images):
    data = images()
    before = descriptor.fingerprint
    fitted = descriptor.fit(data)
    assert descriptor.fingerprint == before
    after = fitted.fingerprint
    fitted.features(data)
    assert fitted.fingerprint == after
    assert len(after) == 64
    assert fitted.settings["fingerprint"] == after


@pytest.mark.parametrize(("encoding", "low", "high"), [("unit", 0, 1), ("byte", 0, 255)])
def test_every_encoding_gives_the_features_of_the_signed_pixels(
    descriptor, images, encoding, low, high
):
    signed = images()
    other = replace(signed, x=(signed.x + 1) / 2 * (high - low) + low, encoding=encoding)
    fitted = descriptor.fit(signed)
    torch.testing.assert_close(
        fitted.features(other), fitted.features(signed), rtol=1e-4, atol=2e-5
    )


def test_bytes_map_to_the_floats_that_loading_gives():
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    loaded = from_array(levels.to(torch.uint8))
    stated = from_array(levels.float(), encoding="byte", layout="channels_first")
    assert torch.equal(signed_pixels(stated.x, stated), loaded.x)


def test_free_pixels_and_vectors_keep_their_values():
    x = torch.tensor([[300.0, -7.0], [0.0, 255.0]])
    vectors = from_array(x, encoding="byte")
    assert torch.equal(Pixels().features(vectors), x)
    free = from_array(x.reshape(2, 1, 1, 2), encoding="free", layout="channels_first")
    assert torch.equal(Pixels().features(free), x)


def test_pixels_share_memory_and_keep_float64():
    vectors = from_array(torch.randn(5, 3, dtype=torch.float64))
    rows = Pixels().features(vectors)
    assert rows.dtype == torch.float64
    assert rows.data_ptr() == vectors.x.data_ptr()


def test_pixels_do_not_write_to_the_data(images):
    data = replace(images(), encoding="unit")
    before = data.x.clone()
    Pixels().features(data)
    assert torch.equal(data.x, before)


def test_fingerprints_differ_with_every_parameter(images, table):
    data, other = images(), images(seed=1)
    small = replace(data, x=data.x * 0.5)
    linear = tiny_network()
    changed = tiny_network()
    with torch.no_grad():
        changed[0].bias[0] += 1e-6
    preprocessing = Preprocessing()
    made = [
        Pixels(),
        Downscaled(4),
        Downscaled((4, 5)),
        DCT(4),
        PCA(4),
        PCA(4).fit(data),
        PCA(4).fit(other),
        PCA(4).fit(small),
        PCA(4, whiten=True).fit(data),
        PCA(4, seed=1),
        PCA(5),
        TableColumns(),
        TableColumns(mismatch=2.0),
        TableColumns().fit(table()),
        TableColumns().fit(table(seed=1)),
        Network(linear, name="a", preprocessing=preprocessing),
        Network(linear, name="b", preprocessing=preprocessing),
        Network(linear, name="a", preprocessing=preprocessing, metric="euclidean"),
        Network(changed, name="a", preprocessing=preprocessing),
        *(
            Network(linear, name="a", preprocessing=replace(preprocessing, **change))
            for change in (
                {"resize": 8},
                {"resize": (8, 8)},
                {"crop": (8, 8)},
                {"interpolation": "bicubic"},
                {"antialias": False},
                {"channels": "same"},
                {"mean": (0.5,), "std": (0.5,)},
                {"mean": (0.5,), "std": (0.4,)},
            )
        ),
    ]
    assert len({descriptor.fingerprint for descriptor in made}) == len(made)
    again = Network(tiny_network(), name="a", preprocessing=Preprocessing())
    assert again.fingerprint == made[15].fingerprint
    assert PCA(4).fit(data).fingerprint == PCA(4).fit(images()).fingerprint


def test_a_third_party_descriptor_needs_three_members(images):
    class Mean(Descriptor):
        name = "mean"
        parameters = {}  # noqa: RUF012

        def _describe(self, x):
            return x.flatten(1).mean(1, keepdim=True)

    data = images()
    torch.testing.assert_close(Mean().features(data)[:, 0], data.x.mean((1, 2, 3)))


def test_a_feature_that_is_not_finite_names_descriptor_and_point(images, refusal):
    class Broken(nn.Module):
        def forward(self, x):
            rows = x.flatten(1).clone()
            rows[rows[:, 0] == rows[:, 0].max(), 1] = torch.nan
            return rows

    data = images()
    worst = int(data.x[:, 0, 0, 0].argmax())
    broken = Network(Broken(), name="broken", preprocessing=Preprocessing())
    with refusal("'broken'", "train", f"'row {worst}'", "NaN"):
        broken.features(data)
    x = data.x.clone()
    x[7, 0, 3, 3] = torch.inf
    with refusal("'pixels'", "'row 7'"):
        Pixels().features(replace(data, x=x))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_size_that_is_none_is_refused(images, refusal, batch_size):
    with refusal("batch_size", repr(batch_size)):
        Downscaled(2).features(images(), batch_size=batch_size)


def test_a_device_that_is_none_is_refused(descriptor, images, refusal):
    data = images()
    if isinstance(descriptor, Pixels):
        data = replace(data, encoding="unit")  # else nothing is computed
    with refusal("device", "'gpu'", "'cuda'"):
        descriptor.fit(images()).features(data, device="gpu")


def test_kinds_that_cannot_be_described_are_refused_with_what_can(images, table, refusal):
    vectors = from_array(torch.randn(9, 3), name="latents")
    with refusal("'dct:4'", "latents", "vectors", "pca:COMPONENTS"):
        DCT(4).features(vectors)
    with refusal("'pca:2'", "train", "a table", "table"):
        PCA(2).fit(table())
    with refusal("'table'", "train", "images", "pixels"):
        TableColumns().fit(images())
    with refusal("'tiny'", "latents", "images"):
        Network(tiny_network(), name="tiny", preprocessing=Preprocessing()).features(vectors)
