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


def _without_refit(n_passages: int, seconds: float, peak_bytes: float) -> RunAtSize:
    return RunAtSize(
        method="wanda-channels", n_tokens=4_096, n_passages=n_passages, seconds=seconds, peak_bytes=peak_bytes
    )


RUNS_AT_SIZE: dict[str, RunAtSize] = {
    "opt-1.3b": _without_refit(20, 232.0, 1.48e9),
    "bloom-1b7": _without_refit(20, 234.0, 2.40e9),
    "opt-2.7b": _without_refit(20, 413.0, 2.10e9),
    "gpt-j-6b": _without_refit(10, 690.0, 2.56e9),
    "bloom-7b1": _without_refit(10, 853.0, 4.17e9),
    "llama-7b": RunAtSize(method="least-squares", n_tokens=45_056, n_passages=100, seconds=6_570.0, peak_bytes=7.48e9),
}
"""By the config in `configs`. docs/results.md has every stage."""
