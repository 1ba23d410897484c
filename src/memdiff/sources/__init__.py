"""Training data wherever they live: in memory, or on disk and read in blocks."""

from memdiff.sources.files import STREAMED_SUFFIXES, ArrayFile
from memdiff.sources.read_ahead import ReadAhead
from memdiff.sources.rows import RowData, Rows
from memdiff.sources.spool import Spool

__all__ = ["STREAMED_SUFFIXES", "ArrayFile", "ReadAhead", "RowData", "Rows", "Spool"]
