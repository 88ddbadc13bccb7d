"""A sparse model in files: written beside its final name, proven by a fresh process that loads it, then renamed."""
