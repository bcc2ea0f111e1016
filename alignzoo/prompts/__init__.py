"""Datasets -> prompts."""

from alignzoo.prompts.mixing import Part
from alignzoo.prompts.reading import READERS, Data, Rows, from_rows, read, split, train_and_heldout

__all__ = ["READERS", "Data", "Part", "Rows", "from_rows", "read", "split", "train_and_heldout"]
