"""Shared settings of the test suite."""

import torch

# One thread a worker: `make test` runs two workers on two cores.
torch.set_num_threads(1)
