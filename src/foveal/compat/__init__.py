"""Values of the official codes, where they differ from the library on purpose; not offered as methods."""
