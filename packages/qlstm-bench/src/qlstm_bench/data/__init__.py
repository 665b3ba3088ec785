"""Texts to learn from: where they come from, how they are checked, and how they are held."""

from qlstm_bench.data.catalogue import DATASETS, Dataset, load_text
from qlstm_bench.data.errors import DataError
from qlstm_bench.data.text import Text

__all__ = ["DATASETS", "DataError", "Dataset", "Text", "load_text"]
