"""Planted truth that the tests of several metrics share."""

import pytest
import torch


class Planted:
    """Gaussian data of a given dimension with generated sets whose answer is known."""

    def __init__(self, dimension, size=1000, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.dimension, self.size = dimension, size
        self.train = self.fresh()
        self.heldout = self.fresh()

    def _size(self, size):
        return self.size if size is None else size

    def fresh(self, size=None):
        return torch.randn(self._size(size), self.dimension, generator=self.generator)

    def copies(self, size=None):
        index = torch.randint(self.size, (self._size(size),), generator=self.generator)
        return self.train[index]

    def mixed(self, share):
        copied = round(share * self.size)
        return torch.cat([self.copies(copied), self.fresh(self.size - copied)])

    def collapsed(self):
        return self.fresh(1).expand(self.size, -1)

    def near_copies(self, amount):
        """Copies with noise ``amount`` times the median neighbour distance."""
        apart = torch.cdist(self.train.double(), self.train.double())
        apart.fill_diagonal_(torch.inf)
        scale = float(apart.amin(1).median()) / self.dimension**0.5
        return self.copies() + amount * scale * self.fresh()


@pytest.fixture
def planted():
    return Planted
