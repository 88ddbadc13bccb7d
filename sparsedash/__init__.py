"""SparseDash: what would pruning cost this language model?"""

__version__ = "0.2.0"
