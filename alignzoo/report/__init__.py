"""What a person looks at after a run: a table, samples, a model card, curves."""

from alignzoo.report.curves import curves
from alignzoo.report.tables import asked, model_card, samples_shown, table

__all__ = ["asked", "curves", "model_card", "samples_shown", "table"]
