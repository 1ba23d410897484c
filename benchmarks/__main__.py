"""``python -m benchmarks``: measure everything in one run, write a table.

    python -m benchmarks                                # all tables at the sizes of the targets
    python -m benchmarks --only posterior --quick       # a look at one of them, nothing recorded

Ratios to the floor are what travels between machines; seconds do not. A run replaces the tables
that it measures in ``results.json`` and ``results.md`` and keeps the others, each with the machine
and the commit that it was measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.table import Table, markdown, measure, merge

TABLES: dict[str, Table] = {
    "posterior": Table(
        "benchmarks.posterior",
        "One evaluation of the exact score, with nothing left out (`memdiff`) and with a mass of "
        "1e-5 (`tolerance 1e-5`). Floor: both matrix products, `B x d x N` and `B x N x d`. "
        "`candidates`: training points that can carry more than 1e-5 of the weight. `target`: "
        "1.15; 0.25 with the tolerance where there are at most 32 candidates; 1.1 times SDPA in "
        "up to 32 dimensions.",
    ),
    "trajectory": Table(
        "benchmarks.trajectory",
        "An 18-step EDM Heun run of `sample`; tolerance 0 leaves nothing out. `first run` sets up "
        "what `memdiff`, later runs, find: their time over 35 pairs of products (`target`: at "
        "most). `counted`: the share of work by counts. `collapsed`: evaluations that one "
        "certified point answered. `difference`: of 4 samples from those of tolerance 0.",
    ),
    "chunks": Table(
        "benchmarks.chunks",
        "Ways through all points at middle noise: float32 products, in chunks of coordinates that "
        "float64 adds up, and float64 logits (`mixed`). `error`: largest of a log sum of weights, "
        "against float64; the contract is 1e-5. `memdiff`: what the engine chooses.",
    ),
    "subset": Table(
        "benchmarks.subset",
        "The exact score against a subset of points per query that shrinks with the noise (after "
        "GoldDiff, arXiv:2602.16498, reconstructed), on digits. `error`: largest of a residual, "
        "relative to it, against float64.",
    ),
    "middle": Table(
        "benchmarks.middle",
        "What an order of blocks could save where some points matter and others do not, by "
        "counts. Points in the order of clusters, queries of a sampling run in groups that are "
        "near each other. `needed`: share of the points that carry all but 1e-5 of the weight of "
        "a query; `blocks of 16`: share of the blocks of 128 points that a group of 16 needs.",
    ),
    "neighbors": Table(
        "benchmarks.neighbors",
        "Exact k nearest neighbours. Floor: the bare product `queries @ points.T`. `streamed`: "
        "with the points in a file; `target`: 1.3.",
    ),
    "streaming": Table(
        "benchmarks.streaming",
        "The exact score of training data on disk. `against memory`: time over that of the same "
        "data in memory; `exponent`: of the time against the number of points, target 1; "
        "`extra_memory_mb`: of a process that builds the score and evaluates it, against the "
        "stated `limit_mb`.",
    ),
    "peers": Table(
        "benchmarks.peers",
        "Other ways to the same answers. `of the floor`: time over the bare products; "
        "`of memdiff`: over ours, above 1 is slower. Slow methods get a part of the work, "
        "and their time is scaled up from it.",
    ),
    "scaling": Table(
        "benchmarks.scaling",
        "One evaluation at 256 queries against `N`, `d` and `sigma`, and the memory that it takes "
        "beside the data. The paper's loop is scaled up from 300 training points.",
    ),
    "ensemble": Table(
        "benchmarks.ensemble",
        "Many small networks trained in one batched pass, against one after another: "
        "milliseconds a step and network. `loop / ensemble` above 1 is in favour of the ensemble.",
    ),
    "startup": Table(
        "benchmarks.startup",
        "Time of a process that computes nothing. `of python`: over that of `python -c pass`.",
    ),
}
"""Every table, in the order of the page. To add one, write its module and its line here."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(TABLES), help="Tables to measure.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Small sizes, one repetition; written to build/benchmarks unless --out is given.",
    )
    parser.add_argument("--repeats", type=int, help="Runs in turns, of which the shortest counts.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="Folder; default benchmarks/results.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = "small" if options.quick else "full"
    repeats = options.repeats or (1 if options.quick else 2)
    out = options.out or Path("build/benchmarks" if options.quick else "benchmarks/results")
    for name in options.only or TABLES:
        found = measure(name, TABLES[name], size, repeats)
        merge(out, name, found, list(TABLES))
        print(markdown({name: found}).partition("\n## ")[2], flush=True)


if __name__ == "__main__":
    main()
