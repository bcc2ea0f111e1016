"""Forward passes: a trunk over packed rows, the heads that read it, and the columns that they answer."""
