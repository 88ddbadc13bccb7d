"""Seconds that a run's stages take: from earlier runs here, else from operations and bytes at this machine's speed.

The speed is measured once by a small process: the front may not import torch.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import fmean

import msgspec

from sparsedash.catalog.choices import in_one_walk, n_passages, n_side_by_side
from sparsedash.catalog.engine_limits import (
    FISHER_BATCH_TOKENS,
    SENSITIVITY_BATCH_TOKENS,
    SENSITIVITY_TOKENS,
    TOGETHER_TOKENS,
    TOKENS_A_PASSAGE,
)
from sparsedash.catalog.model_shape import Dimensions
from sparsedash.catalog.resources import (
    BYTES,
    STREAM_INPUTS,
    USABLE,
    collects_whole_moments,
    is_streamed,
    least_memory,
    unfinished_bytes,
)
from sparsedash.schema import store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import SELF, CalibrationSettings, Dtype, RunSettings
from sparsedash.schema.store_keys import shares_read
from sparsedash.storage.local_machine import memory_bytes
from sparsedash.storage.store import Store

_SPEED_MODULE = "sparsedash.engine.comparison.machine_rates"
_OLD_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """float32, bfloat16: multiply-adds times two, per second, of products of such numbers on all cores. disk: bytes
    that are read per second; 0 where that could not be measured.
    """

    float32: float
    bfloat16: float
    disk: float = 0.0

    def of(self, dtype: Dtype) -> float:
        """The speed of products of this type of number."""
        return self.float32 if dtype == "float32" else self.bfloat16


class MachineSpeed:
    """The speed of this machine as far as it is known. One measuring process at a time; nothing waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measuring: subprocess.Popen[str] | None = None
        self._failed = False
        self._lock = threading.Lock()

    def known(self) -> Speeds | None:
        """What was measured; None until it was, which this begins.

        It takes some seconds. What was measured long ago, when the machine may have been busy, is measured anew
        meanwhile; what was measured on another machine with the same data folder does not count.
        """
        name = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)
        noted = _noted_speeds(self._store.recall(name) or "")
        known = None if noted is None else noted.speeds
        if noted is None or not 0.0 <= time.time() - noted.at < _OLD_S:
            measured = self._measured()
            if measured is not None:
                known = measured
                self._store.remember(name, msgspec.json.encode(_Noted(measured, time.time())).decode())
        return known

    def is_measuring(self) -> bool:
        """Whether the measuring process has not ended yet."""
        with self._lock:
            return self._measuring is not None and self._measuring.poll() is None

    def _measured(self) -> Speeds | None:
        """What the process has printed; begins it where there is none, unless one has failed."""
        with self._lock:
            if self._measuring is None and not self._failed:
                command = [sys.executable, "-m", _SPEED_MODULE, str(self._store.folder)]
                quiet = subprocess.DEVNULL
                self._measuring = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True)  # noqa: S603
            if self._measuring is None or self._measuring.poll() is None:
                return None
            printed, _ = self._measuring.communicate()
            self._measuring = None
            found = _parsed_speeds(printed)
            self._failed = found is None
            return found

    def close(self) -> None:
        """End a measurement that is under way."""
        with self._lock:
            if self._measuring is not None:
                self._measuring.kill()
                self._measuring.communicate()
                self._measuring = None


@dataclass(frozen=True)
class _Noted:
    speeds: Speeds
    at: float


def _noted_speeds(text: str) -> _Noted | None:
    try:
        noted = msgspec.json.decode(text, type=_Noted)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return noted if _are_speeds(noted.speeds) else None


def _parsed_speeds(text: str) -> Speeds | None:
    """Speeds that can be divided by, or None."""
    try:
        found = msgspec.json.decode(text, type=Speeds)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found if _are_speeds(found) else None


def _are_speeds(found: Speeds) -> bool:
    return all(1e6 < speed < 1e18 for speed in (found.float32, found.bfloat16)) and 0.0 <= found.disk < 1e18


_PRODUCTS = 0.93
"""Share of the measured speed of products that a model's own reach."""

_BESIDE: dict[Dtype, float] = {"float32": 70.0, "bfloat16": 190.0}
_STREAM_NUMBERS, _INNER_NUMBERS = 8, 3
"""What a block does beside its products, in operations at the speed of single precision for each number that it
writes; and how many of these there are for each of its two widths.
"""

_ANSWERING = 0.85
"""Share of the speed of reading, of answering: its batches are small, and words go on."""

_WRITING: dict[Dtype, float] = {"float32": 0.4, "bfloat16": 0.3}
"""Share of the speed of products, of writing token by token."""

_GATHERING = 0.7
"""Share of the speed in single precision: of summing up second moments, half of each."""

_FINISHING, _UNFINISHED, _WEIGHT_BYTES_A_SECOND = 9, 0.5, 1e10
"""Times that answering goes over all weights for the words that go on, the share of the passages whose do; and what a
pass with few rows reads of the weights, in memory already.
"""

_SOLVING, _ORDERING, _LOSING, _INVERTING = 2.0, 12.0, 3.5, 2.6
"""In cubes of a width at the measured speed: one block's least squares and what it loses by them, the order in which
channels leave by optimal brain surgeon, what a block loses with every number of them and a trial change of it, and the
factor of an inverse. As measured at widths of 1,536 to 11,008.
"""

_UNPACKING_S = 3e-8
"""Seconds in which one value of a second moment is read from the store, checked and unfolded, three times a model."""

_JUDGING_S = 6e-8
"""Seconds a weight of the out-projections in which the channels of a model are chosen and judged on samples alone."""

_MENDING, _MEASURING = 13.0, 6.0
"""The same in a projection's weights times its inputs: making up for single weights, and telling what they lost."""

_THERE_AND_BACK = 3.0
"""A backward pass, in passes over the text."""

START_S = 6.0
"""Seconds that importing the engine takes: 5 to 10 as measured; a worker that waits already has done it."""

_LOADING_S, _LOADING_BYTES_A_SECOND = 2.6, 1e9
"""What comes before a model's weights are read, and how fast that is at best: from files that the system still has."""


def seconds_by_arithmetic(
    settings: RunSettings, speeds: Speeds | None, counted: Dimensions | None
) -> dict[Stage, float | None]:
    """Seconds of each stage, for one model; None for what cannot be counted.

    speeds: of this machine. counted: the model's sizes, where they are known.
    """
    if counted is None or speeds is None:
        return dict.fromkeys(("load", "text", "calibrate", "prune", "evaluate"))
    dtype, walk_s = settings.dtype, _walk_s(settings, speeds, counted)
    speed, a_token_s = speeds.of(dtype), _token_s(counted, speeds, dtype)
    n_tokens, n = settings.calibration.n_samples * settings.calibration.length, n_passages(settings)
    own = settings.calibration.corpus == SELF
    head_s = 2.0 * counted.vocabulary * counted.hidden / (_PRODUCTS * speed)
    # In one walk with the passages nothing is read for text.
    reading = _Reading(a_token_s, a_token_s + head_s, 0.0 if in_one_walk(settings) else walk_s)
    whole = settings.reads_text and collects_whole_moments(counted.widths, settings)
    gathering = _powers(counted, 2) / (_GATHERING * speeds.float32) if whole else 0.0
    n_asked = n and n * TOKENS_A_PASSAGE
    few_rows_s = BYTES[dtype] * counted.n_matmul / _WEIGHT_BYTES_A_SECOND
    return {
        "load": _LOADING_S + BYTES[dtype] * counted.n_parameters / min(_LOADING_BYTES_A_SECOND, speeds.disk or inf),
        "text": n_tokens * 2.0 * counted.n_matmul / (_WRITING[dtype] * speed) if own else 0.0,
        "calibrate": reading.walk + n_tokens * (reading.a_token + gathering),
        "prune": fmean(_method_s(each, n_tokens, counted, speeds, reading, whole) for each in settings.methods),
        "evaluate": n_asked
        and n_asked * a_token_s / _ANSWERING + _FINISHING * few_rows_s + walk_s * _walks(settings, counted, n_asked),
    }


@dataclass(frozen=True)
class _Reading:
    """Seconds of going over text: for a token in the blocks, for one with the head, and, of weights that stay in their
    files, for all blocks once.
    """

    a_token: float
    with_head: float
    walk: float

    def there_and_back(self, n_tokens: int, batch_tokens: int) -> float:
        """A backward pass, in batches: the blocks are read on the way there and on the way back."""
        return _THERE_AND_BACK * n_tokens * self.with_head + 2 * ceil(n_tokens / batch_tokens) * self.walk


def _walk_s(settings: RunSettings, speeds: Speeds, counted: Dimensions) -> float:
    """Seconds of reading all blocks from the disk, where they stay there and the system cannot keep them in memory."""
    n_bytes = BYTES[settings.dtype] * (counted.n_matmul - counted.vocabulary * counted.hidden)
    there = memory_bytes()
    streamed = is_streamed(settings.residency, least_memory(counted, settings).n_bytes, there)
    beside = least_memory(counted, settings, streamed=True).n_bytes
    return n_bytes / speeds.disk if streamed and speeds.disk and n_bytes + beside > USABLE * there else 0.0


def _walks(settings: RunSettings, counted: Dimensions, n_asked: int) -> float:
    """How often a model is read from its files for each of those that answer side by side. n_asked: tokens, of one."""
    n_models = n_side_by_side(settings)
    a_token = counted.kept_of_a_token * BYTES[settings.dtype]
    room = unfinished_bytes(counted, settings.dtype, streamed=True)
    n_tokens = n_models * n_asked
    reading = ceil(n_tokens / min(TOGETHER_TOKENS, room / a_token))
    return (reading + _FINISHING * ceil(_UNFINISHED * n_tokens * a_token / room)) / n_models


def _method_s(
    method: MethodSettings, n_tokens: int, counted: Dimensions, speeds: Speeds, reading: _Reading, whole: bool
) -> float:
    """Seconds of one sparse model, as if nothing were found for another one that serves it as well.

    whole: whether there are second moments, by which it is judged.
    """
    if not method.takes_channels:
        return _masking_s(method, n_tokens, counted, speeds, reading)
    cubes, read_s = _SOLVING, 0.0
    if method.saliency == "obs":
        cubes += _ORDERING
    if method.allocation == "sensitivity":
        cubes += _LOSING
        read_s += reading.there_and_back(SENSITIVITY_TOKENS, SENSITIVITY_BATCH_TOKENS)
    if method.saliency == "fisher":
        read_s += reading.there_and_back(n_tokens, FISHER_BATCH_TOKENS)
    if method.compensation == "sequential":
        cubes += _SOLVING
        sums = 2 * n_tokens * _powers(counted, 2) / (_GATHERING * speeds.float32)
        read_s += 3 * (n_tokens * reading.a_token + reading.walk) + sums
    if not whole:
        return _JUDGING_S * counted.hidden * _powers(counted, 1) + read_s
    return cubes * _powers(counted, 3) / speeds.float32 + read_s + _UNPACKING_S * _powers(counted, 2)


def _masking_s(method: MethodSettings, n_tokens: int, counted: Dimensions, speeds: Speeds, reading: _Reading) -> float:
    """Single weights: one more pass over the text for the inputs, and every projection by itself."""
    hidden, n_blocks = counted.hidden, len(counted.widths)
    out = hidden * sum(counted.widths)
    others = counted.n_matmul - counted.vocabulary * hidden - out
    products = float(others * hidden + hidden * _powers(counted, 2))
    sums = STREAM_INPUTS * n_blocks * hidden**2 / (_GATHERING * speeds.float32)
    read_s = reading.walk + n_tokens * (reading.a_token + sums) if method.reads_text else 0.0
    work = _MEASURING * products
    if method.saliency == "obs" or method.compensation != "none":
        work += _MENDING * products + _INVERTING * (_powers(counted, 3) + STREAM_INPUTS * n_blocks * hidden**3)
    return work / speeds.float32 + read_s


def _token_s(counted: Dimensions, speeds: Speeds, dtype: Dtype) -> float:
    """Seconds in which all blocks read a token, without the output head."""
    products = 2.0 * (counted.n_matmul - counted.vocabulary * counted.hidden)
    numbers = _STREAM_NUMBERS * counted.hidden * len(counted.widths) + _INNER_NUMBERS * _powers(counted, 1)
    return products / (_PRODUCTS * speeds.of(dtype)) + _BESIDE[dtype] * numbers / speeds.float32


def _powers(counted: Dimensions, power: int) -> int:
    return sum(width**power for width in counted.widths)


_LAST_LOADS = 5


def expected_seconds(
    settings: RunSettings,
    runs: Iterable[Run],
    record: Callable[[str], Record | None],
    speeds: Speeds | None = None,
    *,
    counted: Dimensions | None = None,
) -> dict[Stage, float | None]:
    """Seconds of each stage, for one model, by earlier runs of the same model; None where none has measured it.

    text: letting the model write it; nothing where it is read. runs, record, speeds, counted: as in
    `preflight.duration`; with both of the last, what none has measured is counted.
    """
    wanted = (settings.model, settings.dtype)
    before = [r for r in runs if r.finished and (r.settings.model, r.settings.dtype) == wanted]
    text, calibrate = _calibration_seconds(settings.calibration, before)
    measured: dict[Stage, float | None] = {
        "load": _loading_seconds(before),
        "text": text,
        "calibrate": calibrate,
        "prune": _pruning_seconds(settings, before),
        "evaluate": _evaluation_seconds(settings, before, record),
    }
    by_speed = seconds_by_arithmetic(settings, speeds, counted)
    return {stage: by_speed.get(stage) if seconds is None else seconds for stage, seconds in measured.items()}


def times_known(n: float, value: float | None) -> float | None:
    """So many times the value; None where that is not known."""
    return None if value is None else n * value


def _evaluation_seconds(
    settings: RunSettings, before: Sequence[Run], record: Callable[[str], Record | None]
) -> float | None:
    """For one model; the passages of another text set are taken to be as long as those measured."""
    evaluation = settings.evaluation
    n_passages, a_passage = evaluation.n_passages, None
    for run in before:
        dense = record(run.dense)
        if dense is None:
            continue
        if a_passage is None:
            a_passage = dense.seconds / len(dense.outcomes)
        whole = run.settings.evaluation.n_passages is None
        if n_passages is None and whole and run.settings.evaluation.corpus == evaluation.corpus:
            n_passages = len(dense.outcomes)
        if n_passages is not None:
            return n_passages * a_passage
    return None


def _loading_seconds(before: Sequence[Run]) -> float | None:
    """The longest of the last few: where the model was in memory still, loading took no time."""
    found = [run.seconds["load"] for run in before if "load" in run.seconds]
    return max(found[:_LAST_LOADS], default=None)


def _calibration_seconds(wanted: CalibrationSettings, before: Iterable[Run]) -> tuple[float, float] | tuple[None, None]:
    """For writing the text, which is nothing where it is read, and for one calibration."""
    for run in before:
        done = run.settings.calibration
        if "calibrate" not in run.seconds or (wanted.corpus == SELF != done.corpus):
            continue
        more = _n_tokens(wanted) / _n_tokens(done)
        written = run.seconds.get("text", 0.0) if wanted.corpus == SELF else 0.0
        return written * more, run.seconds["calibrate"] * more / max(1, len(shares_read(run.settings)))
    return None, None


def _pruning_seconds(settings: RunSettings, before: Sequence[Run]) -> float | None:
    """For one model, from runs of the same methods where there are any: one can take a hundred times as long as
    another.

    What methods take that read the text again grows with it, and no others tell of it; the largest, since a run that
    found in the store what it would have read for measured nothing.
    """
    same = [run for run in before if set(run.settings.methods) == set(settings.methods)]
    if _reads_again(settings):
        wanted = _n_tokens(settings.calibration)
        found = (times_known(wanted / _n_tokens(run.settings.calibration), _seconds_a_pruning(run)) for run in same)
        return max((value for value in found if value is not None), default=None)
    others = [run for run in before if not _reads_again(run.settings)]
    return _first(map(_seconds_a_pruning, (*same, *others)))


def _reads_again(settings: RunSettings) -> bool:
    return any(method.reads_again for method in settings.methods)


def _n_tokens(calibration: CalibrationSettings) -> int:
    return calibration.n_samples * calibration.length


def _seconds_a_pruning(run: Run) -> float | None:
    n_cached = sum(what.endswith("sparse") for what in run.cached)
    n_pruned = len(run.sparse) - n_cached
    return run.seconds["prune"] / n_pruned if "prune" in run.seconds and n_pruned > 0 else None


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)
