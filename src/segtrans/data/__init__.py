"""Data sets: what one is, a reader for each source, their spelling on the command line, and their images as tensors."""

from segtrans.data.base import VOID, Dataset, Item, Sample
from segtrans.data.batches import batch, images_of, labels_of
from segtrans.data.load import READERS, load_data

__all__ = ["READERS", "VOID", "Dataset", "Item", "Sample", "batch", "images_of", "labels_of", "load_data"]
