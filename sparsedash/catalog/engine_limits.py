"""How much the engine takes at once: what it works by, and what is foreseen of a run counts with."""

BATCH_TOKENS = 1024
"""Read at once in answering: of twice as many, what a block works on no longer fits into the caches of a processor."""
TOGETHER_TOKENS = 4 * BATCH_TOKENS
"""Of batches that go through a model together whose weights lie in files: each block is read once for all of them. With
more, too little would be heard of it for too long.
"""

MODELS_TOGETHER = 4
"""Models that answer side by side where weights lie in files, so that a block is read once for all of them. Until then
each sparse one takes room on the disk; and none is heard of before the others.
"""

FISHER_BATCH_TOKENS, SENSITIVITY_BATCH_TOKENS = 1024, 512
"""Tokens in one batch of a backward pass: many where all of the calibration text is read, few where little is."""
SENSITIVITY_TOKENS = 4096
"""Tokens that blocks' sensitivities are measured on."""

MOST_TEXTS, FEWEST_TEXTS = 128, 32
CACHE_BYTES = 3 * 2**29
"""Texts that a model writes at once: the most, but no more than have room in this for what is kept of them, or the
fewest, which are also the fewest that a thread of their own is worth: each of them reads all weights.
"""

WIDE_BYTES = 2**30
"""Of copies in single precision of a BF16 model's weights, kept for a run on machines that multiply those faster."""

KEPT_BYTES, KEPT_SHARE, HELD_SHARE = 256 * 2**20, 1 / 8, 1 / 2
"""Answers that are no whole word yet are finished together, once so much of their passages is kept for it, or this
share of the model's weights where that is more: each token that is written takes a pass over all of them. The second
share is where what is kept lies in files as the weights do.
"""

HELD_OUT_EVERY, HELD_OUT_TOKENS = 16, 512
"""Which sequences of the calibration text are kept out of every fit, and about how many tokens of them are kept."""

MISMATCH_PASSAGES, MISMATCH_TOKENS = 8, 128
"""The passages that calibration text is compared with, and the most tokens of each."""

TOKENS_A_PASSAGE = 115
"""Of the built-in passages, and nearly as many of LAMBADA's."""
