"""The cache: what it finds, what it must not find, and damaged entries."""

import json
from dataclasses import replace

import pytest
import torch

from memdiff.data import from_array
from memdiff.features import DCT, PCA, FeatureCache, Pixels


class Counting(DCT):
    """Counts how often it computes."""

    calls = 0

    def _describe(self, x):
        type(self).calls += 1
        return super()._describe(x)


@pytest.fixture
def cache(tmp_path):
    Counting.calls = 0
    return FeatureCache(tmp_path / "features")


def test_a_second_request_is_answered_from_disk(cache, images):
    data = images()
    first = cache.features(Counting(4), data)
    second = FeatureCache(cache.folder).features(Counting(4), images())
    assert Counting.calls == 1
    assert torch.equal(first, second)
    assert first.dtype == second.dtype
    again = cache.features(Counting(4), data)
    assert torch.equal(again, first)
    assert (cache.hits, cache.misses) == (1, 1)


def test_float64_features_come_back_as_such(cache):
    data = from_array(torch.randn(9, 5, dtype=torch.float64))
    fitted = PCA(3).fit(data)
    first = cache.features(fitted, data)
    assert torch.equal(cache.features(fitted, data), first)
    assert cache.hits == 1
    assert first.dtype == torch.float64


def test_what_changes_the_features_changes_the_key(cache, images):
    data = images()
    x = data.x.clone()
    x[0, 0, 0, 0] += 1e-6
    requests = [
        (DCT(4), data),
        (DCT(5), data),
        (DCT(4), replace(data, x=x)),
        (DCT(4), replace(data, encoding="unit")),
        (PCA(2).fit(data), data),
        (PCA(2).fit(images(seed=1)), data),
    ]
    for descriptor, points in requests:
        expected = descriptor.features(points)
        assert torch.equal(cache.features(descriptor, points), expected)
    assert (cache.hits, cache.misses) == (0, len(requests))
    assert len(list(cache.folder.iterdir())) == len(requests)


def test_name_source_and_labels_do_not_change_the_key(cache, images):
    data = images()
    other = replace(data, name="other", source="elsewhere", names=tuple("abcdefghijkl"))
    assert cache.path(DCT(4), data) == cache.path(DCT(4), other)


@pytest.mark.parametrize("damage", ["value", "truncated", "empty", "text", "no hash"])
def test_a_damaged_entry_is_computed_again_and_mended(cache, images, damage):
    from safetensors.torch import load_file, save_file

    data = images()
    expected = DCT(4).features(data)
    cache.features(DCT(4), data)
    (path,) = cache.folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "value":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text(json.dumps([1, 2]) * 20)
    else:
        save_file({"features": load_file(path)["features"] + 1}, path)
    with pytest.warns(UserWarning, match="damaged"):
        rows = cache.features(DCT(4), data)
    assert torch.equal(rows, expected)
    assert torch.equal(cache.features(DCT(4), data), expected)
    assert (cache.hits, cache.misses) == (1, 2)


def test_an_entry_of_another_name_for_the_tensor_is_damaged(cache, images):
    from safetensors.torch import save_file

    data = images()
    rows = cache.features(DCT(4), data)
    save_file({"other": rows.clone()}, cache.path(DCT(4), data))
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(cache.features(DCT(4), data), rows)


def test_writing_to_mapped_features_does_not_change_the_file(cache, images):
    data = images()
    expected = cache.features(DCT(4), data).clone()
    mapped = cache.features(DCT(4), data)
    mapped.zero_()
    assert torch.equal(cache.features(DCT(4), data), expected)


def test_nothing_is_kept_of_pixels_or_of_a_failure(cache, images, refusal):
    cache.features(Pixels(), images())
    assert not cache.folder.exists()
    with refusal("'dct:40'"):
        cache.features(DCT(40), images())
    with refusal("not fitted"):
        cache.features(PCA(3), images())
    assert not cache.folder.exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, refusal):
    path = tmp_path / "file"
    path.write_text("")
    with refusal("folder", str(path)):
        FeatureCache(path)
