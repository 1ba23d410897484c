"""What the tests of the competition share: brute force over all pairs, and cases without copies.

Independent of the package: numpy only, every distance at once, every pool point its own column.
"""

import numpy as np
import torch

from memdiff.metrics import Distances


def apart(x, y, metric="euclidean"):
    """All lengths between two sets; under the cosine, those between unit vectors."""
    x, y = (np.asarray(a, dtype=float).reshape(len(a), -1) for a in (x, y))
    if metric == "cosine":
        x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


class Brute:
    """Who wins each sample, from the whole matrix of distances."""

    def __init__(self, generated, train, heldout, groups=None, metric="euclidean", variants=()):
        pool = np.concatenate([train, heldout]).reshape(len(train) + len(heldout), -1)
        self.lengths = np.min([apart(x, pool, metric) for x in (generated, *variants)], 0)
        self.is_train = np.arange(len(pool)) < len(train)
        first = self.lengths.min(1)
        self.tied = self.lengths <= first[:, None] * (1 + 1e-9) + 1e-15
        left_out = self.tied
        if groups is not None:
            # The groups of all points that share the sample.
            held = np.array([np.isin(groups, groups[tied]) for tied in self.tied])
            left_out = self.tied | held
        second = np.where(left_out, np.inf, self.lengths).min(1)
        safe = np.where(first == 0, 1.0, second)
        self.ratios = np.where(first == 0, 0.0, np.where(np.isinf(second), 1.0, first / safe))
        self.first = first
        self.shares = self.tied / self.tied.sum(1, keepdims=True)
        self.values = np.unique(pool, axis=0, return_inverse=True)[1].reshape(-1)

    def target_share(self):
        return self.shares @ self.is_train

    def cells(self):
        """For each value: training and held-out points, samples on it, their closest ratio."""
        found = set()
        for value in np.unique(self.values):
            here = self.values == value
            share = self.shares[:, here].sum(1)
            if share.max() > 0:
                weight, closest = share.sum(), self.ratios[share > 0].min()
                counts = (here & self.is_train).sum(), (here & ~self.is_train).sum()
                found.add((*counts, round(weight, 9), round(closest, 9)))
        return sorted(found)


def cells_of(result):
    """The same of a competition; cells that agree in everything count once in both."""
    cells = zip(
        result.cells.train, result.cells.heldout, result.weights(), result.closest, strict=True
    )
    return sorted({(int(a), int(b), round(w, 9), round(r, 9)) for a, b, w, r in cells})


def distances(generated, train, heldout, **options):
    sets = {"generated": generated, "train": train, "heldout": heldout}
    return Distances(**{k: torch.as_tensor(v) for k, v in sets.items()}, **options)


def groups_of(train, heldout):
    """Labels of groups as :class:`Distances` takes them."""
    return {"train": torch.as_tensor(train), "heldout": torch.as_tensor(heldout)}


# Data without copies, (samples, train, held-out), on which the released tests failed.


def blank(rng, share=0.05, n=100):
    x = rng.integers(1, 255, (3 * n, 16)).astype("uint8")
    x[rng.random(3 * n) < share] = 0
    return x[:n], x[n : 2 * n], x[2 * n :]


def categories(rng, m=60, n=25, h=90):
    x = rng.choice(3, size=(m + n + h, 5), p=[0.6, 0.3, 0.1]).astype("f4")
    return x[:m], x[m : m + n], x[m + n :]


def integers(rng, n=100):
    x = np.c_[rng.integers(0, 50, 3 * n) * 1000.0, rng.integers(0, 3, 3 * n)]
    return x[:n], x[n : 2 * n], x[2 * n :]


def zero_inflated(rng, n=100):
    x = rng.lognormal(0, 1, (3 * n, 6))
    zero = rng.random(3 * n) < 0.4
    x[zero] *= np.eye(6)[rng.integers(0, 6, zero.sum())]
    return x[:n], x[n : 2 * n], x[2 * n :]


def duplicated_heldout(rng, n=100):
    x = rng.standard_normal((3 * n, 8))
    # A law with atoms: every point may repeat, in every set.
    x = x[rng.integers(0, n, 3 * n)]
    return x[:n], x[n : 2 * n], x[2 * n :]


def few_heldout(rng):
    x = rng.standard_normal((100 + 300 + 30, 6))
    return x[:100], x[100:400], x[400:]


def collapsed(rng, n=100):
    x = rng.standard_normal((2 * n, 6))
    modes = rng.standard_normal((8, 6))[rng.integers(0, 8, n)]
    return modes + 0.01 * rng.standard_normal((n, 6)), x[:n], x[n:]


def patients(rng, scans=5, each=24):
    """Groups of points, split by group: labels come with them."""
    x = np.repeat(rng.standard_normal((3 * each, 8)), scans, 0)
    x = x + 0.3 * rng.standard_normal(x.shape)
    n = scans * each
    labels = np.repeat(np.arange(2 * each), scans)
    return x[:n], x[n : 2 * n], x[2 * n :], groups_of(labels[:n], labels[n:])


FRESH = [
    blank,
    categories,
    integers,
    zero_inflated,
    duplicated_heldout,
    few_heldout,
    collapsed,
    patients,
]


def fresh_distances(case, seed):
    generated, train, heldout, *groups = case(np.random.default_rng(seed))
    return distances(generated, train, heldout, groups=groups[0] if groups else None)
