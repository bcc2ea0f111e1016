"""What a person looks at after a run: a table, samples, a model card, curves."""

from alignzoo.report.card import model_card
from alignzoo.report.curves import curves
from alignzoo.report.judges import examination_picture, examination_table
from alignzoo.report.tables import asked, samples_shown, table

__all__ = ["asked", "curves", "examination_picture", "examination_table", "model_card", "samples_shown", "table"]
