"""Features shared among ranks: those of one process, to the last bit."""

import pytest
import torch

from memdiff.features import DCT, PCA, Downscaled, FeatureCache


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("descriptor", [DCT(4), PCA(5), Downscaled(5)], ids=lambda d: d.name)
def test_the_rows_are_the_same(in_ranks, images, descriptor, count):
    data = images(count=22)  # six batches, the last half full: more than some ranks, fewer than 7
    fitted = descriptor.fit(data)
    alone = fitted.features(data, batch_size=4)
    for found in in_ranks(count, lambda ranks: fitted.features(data, batch_size=4, ranks=ranks)):
        assert torch.equal(found, alone)


def test_what_one_rank_cannot_describe_is_refused_by_all(in_ranks, images):
    data = images(count=22)
    data.x[20] = torch.nan
    messages = []

    def run(ranks):
        with pytest.raises(ValueError, match="NaN") as caught:
            DCT(4).features(data, batch_size=4, ranks=ranks)
        messages.append(str(caught.value).removesuffix(" (process 2)"))

    in_ranks(3, run)
    assert len(messages) == 3 and len(set(messages)) == 1


def test_the_first_rank_keeps_them_and_all_find_them(in_ranks, images, tmp_path):
    data = images(count=10)
    caches = [FeatureCache(tmp_path) for _ in range(2)]

    def run(ranks):
        return caches[ranks.rank].features(DCT(4), data, batch_size=4, ranks=ranks)

    first, second = in_ranks(2, run), in_ranks(2, run)
    assert torch.equal(first[1], second[1])
    assert [(one.hits, one.misses) for one in caches] == [(1, 1), (1, 1)]


def test_a_rank_that_does_not_see_the_folder_computes_with_the_others(in_ranks, images, tmp_path):
    data = images(count=10)
    alone = FeatureCache(tmp_path / "0").features(DCT(4), data, batch_size=4)

    def run(ranks):
        cache = FeatureCache(tmp_path / str(ranks.rank))
        return cache.features(DCT(4), data, batch_size=4, ranks=ranks)

    for found in in_ranks(2, run):
        assert torch.equal(found, alone)
