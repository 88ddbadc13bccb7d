"""Rounds in which two models do the same work in turn, until the interval of their ratio is narrow."""

import platform
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sparsedash.schema.pair_records import Phase, SpeedRatio, TimedPhase, TimingSettings
from sparsedash.schema.progress import OnStep, Step, ignore
from sparsedash.stats.mean_intervals import is_narrow, speed_ratio

MIN_ROUNDS = 3
MAX_ROUNDS = 400
"""Rounds of slow work, whatever the time, and of work so fast that its interval is narrow long
before.
"""
MAX_LOADS = 12
"""Rounds of loading, which fills the memory anew each time."""

_SLOW = 10
"""A round that takes more than the time over this is warm-up enough."""

_ACTIVITIES: dict[Phase, str] = {
    "prefill": "reading",
    "decode": "writing",
    "load": "loading",
}

TimeSample = Callable[[bool], float]
"""Does the work once with the dense model (True) or the sparse one; returns the seconds."""

Clock = Callable[[], float]
"""Wall-clock seconds."""


@dataclass(frozen=True, kw_only=True)
class TimedWork:
    """A phase at a batch. ceiling: the largest possible speed-up."""

    phase: Phase
    batch: int = 1
    sample: TimeSample
    ceiling: float


def time_phases(
    works: Iterable[TimedWork],
    n_phases: int,
    settings: TimingSettings,
    on_step: OnStep,
    clock: Clock = time.monotonic,
) -> tuple[TimedPhase, ...]:
    """Each phase, timed one after another. n_phases: how many there are."""
    phases: list[TimedPhase] = []
    for work in works:
        step = Step("time", 100 * len(phases), 100 * n_phases)
        phases.append(_timed_phase(work, step, settings, on_step, clock))
    return tuple(phases)


def _timed_phase(
    work: TimedWork, step: Step, settings: TimingSettings, on_step: OnStep, clock: Clock
) -> TimedPhase:
    """step: with the percents that are done before."""
    least_rounds = settings.least_rounds
    activity = f"{_ACTIVITIES[work.phase]}, {work.batch} at once"
    if work.phase == "load":
        least_rounds = min(least_rounds, MAX_LOADS)
        activity = _ACTIVITIES["load"]

    def on_round(n_rounds: int, spent_s: float) -> None:
        doing = f"round {n_rounds + 1}" if spent_s else "warming up"
        share = max(min(n_rounds / least_rounds, 0.8), spent_s / settings.most_s)
        done = step.done + min(99, round(100 * share))
        on_step(replace(step, done=done, message=f"{activity}, {doing}"))

    rounds = timed_rounds(
        work.sample, replace(settings, least_rounds=least_rounds), clock, on_round
    )
    return replace(rounds, phase=work.phase, batch=work.batch, ceiling=work.ceiling)


def timed_rounds(
    sample: TimeSample,
    settings: TimingSettings,
    clock: Clock = time.monotonic,
    on_round: Callable[[int, float], None] = ignore,
) -> TimedPhase:
    """Rounds of the same work by both models, in random order, until the interval is narrow.

    on_round: called before every sample with the number of counted rounds and the seconds spent;
    may raise Cancelled. What the work was, the caller fills in.
    """
    order = random.Random(settings.seed)
    n_warmup = settings.n_warmup
    started = clock()
    dense_s: list[float] = []
    sparse_s: list[float] = []
    dense_first: list[bool] = []

    def is_enough(n_rounds: int, spent_s: float) -> bool:
        if n_rounds < MIN_ROUNDS:
            return False
        if spent_s >= settings.most_s or n_rounds >= MAX_ROUNDS:
            return True
        return n_rounds >= settings.least_rounds and is_precise(
            speed_ratio(dense_s, sparse_s), settings
        )

    while n_warmup or not is_enough(len(dense_s), clock() - started):
        first = order.random() < 0.5
        seconds = {}
        for is_dense in (first, not first):
            on_round(len(dense_s), 0.0 if n_warmup else clock() - started)
            seconds[is_dense] = sample(is_dense)
        if n_warmup:
            is_slow = clock() - started > settings.most_s / _SLOW
            n_warmup = 0 if is_slow else n_warmup - 1
            started = clock()
            continue
        dense_s.append(seconds[True])
        sparse_s.append(seconds[False])
        dense_first.append(first)
    return TimedPhase(
        phase="prefill",
        batch=1,
        dense_s=tuple(dense_s),
        sparse_s=tuple(sparse_s),
        dense_first=tuple(dense_first),
        ratio=speed_ratio(dense_s, sparse_s),
        ceiling=1.0,
    )


def is_precise(ratio: SpeedRatio, settings: TimingSettings) -> bool:
    """Whether the interval is as narrow as was asked for."""
    return is_narrow(ratio, settings.within_permille / 1000)


def machine_name(device: torch.device) -> str:
    """The name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
