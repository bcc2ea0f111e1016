"""Evaluation belongs to nobody: the same measure of every method, in a run and in a comparison, on held-out prompts.

The only place that asks a task for its gold score. Figures are means over prompts; `NAME_se` is the standard error.
"""
