"""Loading data, and what is known about it."""

from memdiff.data.arrays import from_array
from memdiff.data.builtin import BUILTINS
from memdiff.data.comparison import align_categories, check_comparable
from memdiff.data.dataset import Dataset
from memdiff.data.encoding import TableEncoding
from memdiff.data.frames import from_frame, to_frame
from memdiff.data.loading import load
from memdiff.data.streamed import StreamedDataset, from_rows
from memdiff.data.tables import TABLE_SUFFIXES, save_table

__all__ = [
    "BUILTINS",
    "TABLE_SUFFIXES",
    "Dataset",
    "StreamedDataset",
    "TableEncoding",
    "align_categories",
    "check_comparable",
    "from_array",
    "from_frame",
    "from_rows",
    "load",
    "save_table",
    "to_frame",
]
