"""What the sparse models of a run win: measured speed, bytes, multiply-adds. What was not measured is not guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparsedash.catalog.costs import Load, prefill_ceiling, weight_bytes
from sparsedash.reporting import wording
from sparsedash.reporting.charts.gain_chart import Gain, Gained
from sparsedash.reporting.run_results import Judged, RunResults
from sparsedash.schema.pair_records import Phase
from sparsedash.schema.pair_settings import TimingSettings
from sparsedash.schema.settings import Dtype
from sparsedash.service.backend import Backend

GainName = Literal["reading", "writing", "bytes", "multiply-adds"]
"""Speed of reading a prompt and of writing, as measured; and what is exact from widths."""

NAMES: dict[GainName, str] = {
    "reading": "Measured speed-up, reading a prompt",
    "writing": "Measured speed-up, writing",
    "bytes": "Times fewer bytes of weights",
    "multiply-adds": "Times fewer multiply-adds, reading 512 tokens",
}
PHASES: dict[GainName, Phase] = {"reading": "prefill", "writing": "decode"}
READ = Load(batch=1, n_tokens=512)


@dataclass(frozen=True, kw_only=True)
class Gains:
    """What is known of a run's models on one axis.

    gained: for the chart. untimed: those that could be timed and were not. masked: those that only have zeros, where
    the axis is one of speed. unknown: those whose model's sizes are not noted.
    """

    gained: Gained
    untimed: Sequence[Judged] = ()
    masked: Sequence[Judged] = ()
    unknown: Sequence[Judged] = ()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How models are timed. dtype: None as the run has it. n_threads: None as many as torch takes by itself."""

    dtype: Dtype | None = None
    n_threads: int | None = None


def gains(backend: Backend, found: RunResults, name: GainName, timed: Timed) -> Gains:
    """What the models of this run win on one axis."""
    return _measured(backend, found, name, timed) if name in PHASES else _exact(backend, found, name)


def timing_request(found: RunResults, sparse: str, timed: Timed) -> TimingSettings:
    """What is asked for where a sparse model's speed is to be shown. sparse: its record's key."""
    return TimingSettings(dense=found.dense.key, sparse=sparse, dtype=timed.dtype, n_threads=timed.n_threads)


def _measured(backend: Backend, found: RunResults, name: GainName, timed: Timed) -> Gains:
    known: dict[str, Gain] = {}
    untimed: list[Judged] = []
    masked: list[Judged] = []
    for each in found.judged:
        request = timing_request(found, each.record.key, timed)
        timing = backend.timing(request.key()) if each.method.takes_channels else None
        phase = timing.timed(PHASES[name]) if timing else None
        if phase is not None:
            ratio = phase.ratio
            words = (
                f"{wording.factor(ratio.value)} as fast, 95 % interval {ratio.low:.2f} to {ratio.high:.2f}; "
                f"at most {wording.factor(phase.ceiling)}"
            )
            known[each.record.key] = Gain(value=ratio.value, low=ratio.low, high=ratio.high, words=words)
        else:
            (untimed if each.method.takes_channels else masked).append(each)
    return Gains(gained=Gained(name=NAMES[name], gains=known), untimed=untimed, masked=masked)


def _exact(backend: Backend, found: RunResults, name: GainName) -> Gains:
    known: dict[str, Gain] = {}
    unknown: list[Judged] = []
    shape = backend.model_shape(found.dense.model_identity)
    for each in found.judged:
        assert each.record.pruned is not None
        widths = each.record.pruned.widths
        if shape is None or shape.widths != each.record.pruned.dense_widths:
            unknown.append(each)
            continue
        if name == "bytes":
            bytes_of = [weight_bytes(shape, w, found.dense.dtype) for w in (shape.widths, widths)]
            value, words = bytes_of[0] / bytes_of[1], " → ".join(wording.size(n) for n in bytes_of)
        else:
            value = prefill_ceiling(shape, widths, READ)
            words = f"{wording.factor(value)} fewer multiply-adds"
        known[each.record.key] = Gain(value=value, low=value, high=value, words=words)
    return Gains(gained=Gained(name=NAMES[name], gains=known), unknown=unknown)
