"""Nearest neighbours against the floor of their matrix product, in one run.

    python benchmarks/neighbors.py --queries 50000 --points 50000 --features 512

The floor is the bare product ``queries @ points.T`` in the same blocks into a reused buffer, by
the fastest of the blockings tried. Times are interleaved, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import resource
import time

import torch
from torch import Tensor

from memdiff.neighbors import nearest


def product_seconds(x: Tensor, y: Tensor, query_block: int, point_block: int) -> float:
    out = torch.empty(query_block * point_block)
    start = time.perf_counter()
    for b, a in itertools.product(y.split(point_block), x.split(query_block)):
        torch.mm(a, b.t(), out=out[: len(a) * len(b)].view(len(a), len(b)))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=8000)
    parser.add_argument("--points", type=int, default=8000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--copies", type=float, default=0.1, help="share of near copies")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.queries, options.features, generator=generator)
    y = torch.randn(options.points, options.features, generator=generator)
    copied = min(int(options.copies * options.queries), options.points)
    x[:copied] = y[:copied] + 1e-3 * x[:copied]

    floors, searches = [], []
    nearest(x[:64], y[:64], 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(options.repeats):
        floors.append(
            min(
                product_seconds(x, y, query_block, point_block)
                for query_block, point_block in ((1024, 4096), (512, 2048))
            )
        )
        start = time.perf_counter()
        nearest(x, y, options.k)
        searches.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    floor, search = min(floors), min(searches)
    print(
        f"| {options.queries} x {options.points} x {options.features} | k={options.k} "
        f"| floor {floor:.2f} s | search {search:.2f} s | ratio {search / floor:.2f} "
        f"| peak extra memory {memory / 1024:.0f} MB | {platform.machine()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads |"
    )


if __name__ == "__main__":
    main()
