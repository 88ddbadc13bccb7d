"""Measured speed in words: the rows that pages and the shell print."""

from sparsedash.reporting import wording
from sparsedash.schema.pair_records import TimedPhase, Timing
from sparsedash.stats.speed_ratio import median_s

HEAD = ("What", "Dense", "Sparse", "Ratio", "95 % interval", "Ceiling")


def rows(timing: Timing) -> list[list[str]]:
    """One row for each phase, one for the bytes of the weights, one for the memory that they take where it is known."""
    timed = [_row(timing, phase) for phase in timing.phases]
    found = [*timed, _bytes("weights on disk", timing.dense_bytes, timing.sparse_bytes, "exact")]
    if timing.dense_resident and timing.sparse_resident:
        found.append(_bytes("weights in memory", timing.dense_resident, timing.sparse_resident, "measured once"))
    return found


def circumstances(timing: Timing) -> str:
    """On what it was measured, in one line."""
    threads = f"{timing.n_threads} {wording.plural(timing.n_threads, 'thread')}"
    how = "seconds: medians; ratio: the middle half of the rounds, in which both went in random order"
    return f"{timing.machine}, {threads}, {timing.dtype}; {how}"


def explained(timing: Timing) -> str:
    """What ceilings are, and what was not measured sharply."""
    text = (
        "Ceiling: the speed-up if multiply-adds (prefill) or bytes (decode, load) were all that takes time. Loading is "
        "from the system's cache."
    )
    return text if timing.precise else f"{text} Some intervals stayed wider than asked for when the time was over."


def _row(timing: Timing, phase: TimedPhase) -> list[str]:
    what = {
        "prefill": f"prefill, {phase.batch} × {timing.n_prompt} tokens",
        "decode": f"decode, {phase.batch} × {timing.n_decode} after {timing.n_prompt}",
        "load": "load",
    }[phase.phase]
    ratio = phase.ratio
    return [
        what,
        seconds(median_s(phase.dense_s)),
        seconds(median_s(phase.sparse_s)),
        wording.factor(ratio.value),
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        wording.factor(phase.ceiling),
    ]


def _bytes(what: str, dense: int, sparse: int, known: str) -> list[str]:
    return [what, wording.size(dense), wording.size(sparse), wording.factor(dense / sparse), known, ""]


def seconds(value: float) -> str:
    """A short time with three figures: 0.0123 -> "12.3 ms"."""
    return f"{value:.3g}{wording.NBSP}s" if value >= 1 else f"{1000 * value:.3g}{wording.NBSP}ms"
