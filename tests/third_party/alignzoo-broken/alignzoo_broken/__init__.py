"""Each module is a plugin, and each is broken in a way of its own."""
