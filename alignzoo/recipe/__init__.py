"""Recipes: TOML, overrides and the registry's parts -> the stages of a run."""

from alignzoo.recipe.loading import Recipe, load, part
from alignzoo.recipe.overrides import Overrides
from alignzoo.recipe.single import named_part, settings_of, tables
from alignzoo.recipe.stages import Stage

__all__ = ["Overrides", "Recipe", "Stage", "load", "named_part", "part", "settings_of", "tables"]
