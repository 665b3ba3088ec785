"""Data to learn from: where it comes from, how it is checked, and how it is held."""

from qlstm_bench.data.catalogue import DATASETS, Dataset, load_sequences, load_text
from qlstm_bench.data.sequences import Sequences
from qlstm_bench.data.text import Text
from qlstm_bench.errors import DataError

__all__ = ["DATASETS", "DataError", "Dataset", "Sequences", "Text", "load_sequences", "load_text"]
