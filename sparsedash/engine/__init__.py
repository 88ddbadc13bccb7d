"""The half that knows torch: models, pruning, evaluation. Runs only in worker processes and in the shell."""

import os

# Read by torch when it first allocates: on Linux its tensors then lie on pages of 2 MB instead of 4 kB. A decoder makes and
# frees tensors of many megabytes all the time, and new pages cost it up to two thirds of its time (benchmarks/huge_pages.py).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
