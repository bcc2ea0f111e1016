"""Datasets -> prompts."""

from alignzoo.data.mixing import Part
from alignzoo.data.reading import READERS, Data, Rows, from_rows, prompts_of, read, split, train_and_heldout

__all__ = ["READERS", "Data", "Part", "Rows", "from_rows", "prompts_of", "read", "split", "train_and_heldout"]
