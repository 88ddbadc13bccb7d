"""Export of a sparse model: written, proven by a fresh process, then renamed."""
