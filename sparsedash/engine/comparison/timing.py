"""Speed of a sparse model against its dense one: prefill, decode and loading, timed in turn in one
process.
"""

import copy
import gc
import itertools
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from torch import Tensor

from sparsedash.catalog.model_shape import decode_ceiling, model_shape, prefill_ceiling
from sparsedash.engine.comparison.model_pair import ModelPairCache, ResidentModel, both_resident
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import torch_threads
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.errors import JobError
from sparsedash.schema.pair_records import Phase, TimedPhase, Timing, TimingSettings
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import Dtype
from sparsedash.stats.mean_intervals import is_narrow, speed_ratio
from sparsedash.storage.store import Store

FEWEST_ROUNDS, MOST_ROUNDS = 3, 400
"""Rounds of slow work, whatever the time, and of work so fast that its interval is narrow long
before.
"""
MOST_LOADS = 12
"""Rounds of loading, which fills the memory anew each time."""

_SLOW = 10
"""A round that takes more than the time over this is warm-up enough."""

TimeSample = Callable[[bool], float]
"""Does the work once with the dense model (True) or the sparse one; returns the seconds."""

TimePhase = Callable[[Phase, int, TimeSample, float], TimedPhase]
"""Times a phase at a batch by samples; its ceiling."""

Pair = tuple[ResidentModel, ResidentModel]
"""The dense model and the sparse one."""


def timed_rounds(
    sample: TimeSample,
    settings: TimingSettings,
    clock: Callable[[], float] = time.monotonic,
    on_round: Callable[[int, float], None] = lambda n_rounds, spent_s: None,
) -> TimedPhase:
    """Rounds in which both models do the same work, in random order, until the ratio's interval is
    narrow.

    clock: wall-clock seconds. on_round: called before every sample with the number of counted
    rounds and the seconds spent; may raise Cancelled. What the work was, the caller fills in.
    """
    order, n_warmup, started = random.Random(settings.seed), settings.n_warmup, clock()
    dense_s, sparse_s, dense_first = list[float](), list[float](), list[bool]()

    def is_enough(n: int, spent_s: float) -> bool:
        if n < FEWEST_ROUNDS or spent_s >= settings.most_s or n >= MOST_ROUNDS:
            return n >= FEWEST_ROUNDS
        return n >= settings.least_rounds and is_narrow(
            speed_ratio(dense_s, sparse_s), settings.within_permille / 1000
        )

    while n_warmup or not is_enough(len(dense_s), clock() - started):
        first, seconds = order.random() < 0.5, {}
        for is_dense in (first, not first):
            on_round(len(dense_s), 0.0 if n_warmup else clock() - started)
            seconds[is_dense] = sample(is_dense)
        if n_warmup:
            is_slow = clock() - started > settings.most_s / _SLOW
            n_warmup, started = 0 if is_slow else n_warmup - 1, clock()
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


def phase_timer(
    settings: TimingSettings,
    n_phases: int,
    on_step: OnStep,
    clock: Callable[[], float] = time.monotonic,
) -> TimePhase:
    """Times one phase after another, of so many in all."""
    activities: dict[Phase, str] = {"prefill": "reading", "decode": "writing", "load": "loading"}
    done = itertools.count()

    def timed(phase: Phase, batch: int, sample: TimeSample, ceiling: float) -> TimedPhase:
        most, n_done = MOST_LOADS if phase == "load" else settings.least_rounds, next(done)
        own = replace(settings, least_rounds=min(settings.least_rounds, most))

        def on_round(n_rounds: int, spent_s: float) -> None:
            share = min(
                99, round(100 * max(min(n_rounds / own.least_rounds, 0.8), spent_s / own.most_s))
            )
            message = f"{activities[phase]}{'' if phase == 'load' else f', {batch} at once'}, "
            message += f"round {n_rounds + 1}" if spent_s else "warming up"
            on_step(Step("time", 100 * n_done + share, 100 * n_phases, message=message))

        return replace(
            timed_rounds(sample, own, clock, on_round), phase=phase, batch=batch, ceiling=ceiling
        )

    return timed


def prefill_sample(model: Any, pair: Pair, ids: Tensor) -> TimeSample:
    """Prefill: read these passages (batch, tokens), with logits of the last token of each."""

    def sample(is_dense: bool) -> float:
        pair[not is_dense].enter_()
        return _seconds(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), ids.device)

    return sample


def decode_sample(model: Any, pair: Pair, ids: Tensor, n_tokens: int) -> TimeSample:
    """Decode: write so many tokens after these passages (batch, tokens), always the same ones.

    Each model reads the passages once; a sample goes on from a copy of its cache, and the copy is
    not timed.
    """
    kept: dict[bool, Any] = {}

    def sample(is_dense: bool) -> float:
        pair[not is_dense].enter_()
        if is_dense not in kept:
            kept[is_dense] = model(input_ids=ids, use_cache=True, logits_to_keep=1).cache
        cache = copy.deepcopy(kept[is_dense])

        def write() -> None:
            for _ in range(n_tokens):
                model(input_ids=ids[:, -1:], cache=cache, use_cache=True, logits_to_keep=1)

        return _seconds(write, ids.device)

    return sample


@contextmanager
def load_sample(pair: Pair, folder: Path) -> Iterator[tuple[TimeSample, Callable[[bool], int]]]:
    """Loading: bring all weights of one model from a file into memory, or onto the GPU; and the
    bytes that this takes, measured, 0 where the system does not tell.

    The files have no name, so that a crash leaves nothing. They were written just now: the system's
    cache is read, not the disk.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in pair]
        for own, file in zip(pair, files, strict=True):
            for weight in own.weights:
                file.write(_bytes_of(weight.detach().cpu()))
        device = pair[0].weights[0].device

        def load(is_dense: bool) -> Tensor:
            """All weights in one piece: where many small ones are placed is up to the allocator."""
            own, file = pair[not is_dense], files[not is_dense]
            file.seek(0)
            place = torch.empty(sum(weight.nbytes for weight in own.weights), dtype=torch.uint8)
            file.readinto(_bytes_of(place))
            return place.to(device)

        def resident(is_dense: bool) -> int:
            gc.collect()
            before = _bytes_in_use(device)
            held = load(is_dense)
            return max(0, _bytes_in_use(held.device) - before)

        yield lambda is_dense: _seconds(lambda: load(is_dense), device), resident


def _bytes_in_use(device: torch.device) -> int:
    """Bytes of the GPU in tensors, or of memory in this process; 0 where the system does not
    tell.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        return (
            int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            * resource.getpagesize()
        )
    return 0


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the work, including what it queued on the GPU, without garbage collection."""
    results = list[object]()

    def timed() -> None:
        # Freed after the clock has stopped.
        results.append(work())
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return timeit(timed, number=1)


def time_models(
    settings: TimingSettings,
    store: Store,
    pair_cache: ModelPairCache,
    on_step: OnStep = ignore_steps,
    clock: Callable[[], float] = time.monotonic,
) -> Timing:
    """The speed of a sparse record's model against its dense one, stored under the settings' key
    when complete.

    Raises JobError when a record is gone, its model has changed, or there is nothing to time.
    """
    if known := store.get(Timing, settings.key()):
        return known
    widths = _widths(store.get(Record, settings.sparse))
    with pair_cache.models((settings.dense, settings.sparse), store, on_step) as (dense, sparse):
        loaded = dense.loaded
        if loaded is not sparse.loaded:
            raise JobError(
                "These are not a dense model and a sparse model of it.",
                "Choose two results of one run.",
            )
        if loaded.residency.streamed:
            raise JobError(
                "This model does not fit into memory: a timing would measure the disk.",
                "Time it on a machine with more memory.",
            )
        dtype: Dtype = settings.dtype or loaded.dtype
        resident = both_resident(dense, sparse, getattr(torch, dtype))
        with resident as pair, torch_threads(settings.n_threads), torch.inference_mode():
            found = _timing(settings, widths, loaded, pair, dtype, store.folder, on_step, clock)
    store.put(found.key, found)
    return found


def _widths(record: Record | None) -> tuple[int, ...]:
    """The kept channels of each block. Raises JobError where the model only has zeros, or is
    quantised.
    """
    if record is None or record.pruned is None:
        raise JobError(
            "There is no sparse model to time: its result is no longer stored, or is dense.",
            "Choose another, or run it.",
        )
    if not record.pruned.method.takes_channels:
        raise JobError(
            "Single weights at zero are not timed: the matrices keep their shapes and their bytes, so no speed-up is "
            "expected from them.",
            "Time a method that removes channels.",
        )
    if record.pruned.spec.quantise:
        raise JobError(
            "A quantised model is not timed: here its weights are full numbers again, as fast as before.",
            "Time the model that it was made of.",
        )
    return record.pruned.widths


def _timing(
    settings: TimingSettings,
    widths: tuple[int, ...],
    loaded: LoadedModel,
    pair: Pair,
    dtype: Dtype,
    folder: Path,
    on_step: OnStep,
    clock: Callable[[], float],
) -> Timing:
    """All phases, one after another. widths: of the sparse model."""
    (dense, sparse), model, phases, started_at = pair, loaded.model, list[TimedPhase](), time.time()
    shape = model_shape(model.config.to_dict())
    n_prompt = max(1, min(settings.n_prompt, loaded.max_length - settings.n_decode))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    timed = phase_timer(settings, 2 * len(settings.batches) + 1, on_step, clock)
    for batch in settings.batches:
        # Random tokens: the time does not depend on them.
        drawn = torch.Generator().manual_seed(settings.seed)
        ids = torch.randint(vocabulary, (batch, n_prompt), generator=drawn).to(model.device)
        reading = prefill_sample(model, pair, ids)
        phases.append(timed("prefill", batch, reading, prefill_ceiling(shape, widths, n_prompt)))
        writing = decode_sample(model, pair, ids, settings.n_decode)
        fetched = decode_ceiling(shape, widths, batch=batch, n_tokens=n_prompt)
        phases.append(timed("decode", batch, writing, fetched))
    with load_sample(pair, folder) as (loading, resident):
        phases.append(timed("load", 1, loading, dense.n_bytes / sparse.n_bytes))
        dense_resident, sparse_resident = resident(True), resident(False)
    return Timing(
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        machine=machine_name(model.device),
        dtype=dtype,
        n_threads=torch.get_num_threads(),
        n_prompt=n_prompt,
        n_decode=settings.n_decode,
        phases=tuple(phases),
        dense_bytes=dense.n_bytes,
        sparse_bytes=sparse.n_bytes,
        dense_resident=dense_resident,
        sparse_resident=sparse_resident,
        precise=all(
            is_narrow(p.ratio, settings.within_permille / 1000) for p in phases if p.phase != "load"
        ),
        started_at=started_at,
        versions=software_versions(),
    )


def machine_name(device: torch.device) -> str:
    """The name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    return platform.processor() or platform.machine()
