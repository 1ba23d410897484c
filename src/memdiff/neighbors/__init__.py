"""Exact nearest neighbours and groups of duplicates, at any size in bounded memory."""

from memdiff.neighbors.approximate import ApproximateNeighbors, nearest_approximate
from memdiff.neighbors.duplicates import DuplicateGroups, duplicate_groups
from memdiff.neighbors.nearest import nearest, nearest_distinct, self_nearest
from memdiff.neighbors.search import MEMORY_LIMIT, Neighbors
from memdiff.sources import RowData, Rows

__all__ = [
    "MEMORY_LIMIT",
    "ApproximateNeighbors",
    "DuplicateGroups",
    "Neighbors",
    "RowData",
    "Rows",
    "duplicate_groups",
    "nearest",
    "nearest_approximate",
    "nearest_distinct",
    "self_nearest",
]
