"""Data sets: what one is, a reader for each source, and their spelling on the command line."""

from segtrans.data.base import VOID, Dataset, Item, Sample
from segtrans.data.load import READERS, load_data

__all__ = ["READERS", "VOID", "Dataset", "Item", "Sample", "load_data"]
