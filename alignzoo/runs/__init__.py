"""A run from its recipe to its end: what it is made of, its folder, and what is checked before its first step."""
