"""Export of a sparse model: written under another name, proven by a fresh process that loads it,
then renamed.
"""
