"""Forward (noising) processes: how data turn into noise.

:class:`ForwardProcess` is the contract; a new process is one small class (see
:mod:`memdiff.processes.base`), which ``memdiff.testing.check_process`` verifies.

References:
    Baptista, Dasgupta, Kovachki, Oberai, Stuart, *Memorization and Regularization in Generative
    Diffusion Models*, arXiv:2501.15785.
    Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
    Models*, arXiv:2206.00364.
"""

from memdiff.processes.base import ForwardProcess, time_function
from memdiff.processes.edm import EDM
from memdiff.processes.linear_interpolant import LinearInterpolant
from memdiff.processes.variance_exploding import VE
from memdiff.processes.variance_preserving import VP

__all__ = ["EDM", "VE", "VP", "ForwardProcess", "LinearInterpolant", "time_function"]
