"""What pruning the published models took at their real size on two cores: of their shapes, not of their answers.

Their weights cannot be had everywhere, and what a run takes does not depend on them: these had random ones.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunAtSize:
    """One run in BF16 at 10 and 20 %, weights left in their files, as `benchmarks/streaming.py` printed it.

    method: by its preset's name. peak_bytes: the most memory that its process held.
    """

    method: str
    n_tokens: int
    n_passages: int
    seconds: float
    peak_bytes: float


RUNS_AT_SIZE: dict[str, RunAtSize] = {
    "llama-7b": RunAtSize(method="least-squares", n_tokens=45_056, n_passages=100, seconds=6_570.0, peak_bytes=7.48e9)
}
"""By the config in `configs`; those that were not run yet are missing. docs/results.md has every stage."""
