"""Loading data, and what is known about it."""

from memdiff.data.arrays import from_array
from memdiff.data.builtin import BUILTINS
from memdiff.data.comparison import align_categories, check_comparable
from memdiff.data.dataset import Dataset
from memdiff.data.files import replace_file, save_arrays, sha256_of, write_json
from memdiff.data.loading import load
from memdiff.data.streamed import STREAM_ABOVE, StreamedDataset, from_rows
from memdiff.data.tables import from_frame

__all__ = [
    "BUILTINS",
    "STREAM_ABOVE",
    "Dataset",
    "StreamedDataset",
    "align_categories",
    "check_comparable",
    "from_array",
    "from_frame",
    "from_rows",
    "load",
    "replace_file",
    "save_arrays",
    "sha256_of",
    "write_json",
]
