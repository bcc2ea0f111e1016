"""Other tools' configuration files, translated into recipes: a table for each tool, as data."""
