"""How fast a sparse model is beside its dense one: both in one process, in turn."""
