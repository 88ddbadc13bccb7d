"""Speed of a sparse model against its dense one: prefill, decode and loading, timed in turn in one process."""

import copy
import gc
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sparsedash.catalog.model_shape import ModelShape, Workload, decode_ceiling, model_shape, prefill_ceiling
from sparsedash.engine.comparison.model_pair import ModelPairCache, ResidentModel, both_resident
from sparsedash.engine.models.loading import LoadedModel, ModelShelf
from sparsedash.engine.models.matmul import torch_threads
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.errors import JobError
from sparsedash.schema.pair_records import Phase, SpeedRatio, TimedPhase, Timing, TimingSettings
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import RunSettings
from sparsedash.stats.mean_intervals import is_narrow, speed_ratio
from sparsedash.storage.store import Store

FEWEST_ROUNDS = 3
"""Rounds that are timed however long they take."""
MOST_ROUNDS = 400
"""Work that is over in no time has an interval long before."""

TimeSample = Callable[[bool], float]
"""Lets the dense model (True) or the sparse one do the work once; gives the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class StopCriterion:
    """When enough was timed.

    within: the interval's ends are nearer to the ratio than this share. least_rounds: before anybody looks at it.
    most_s: seconds after which no round is begun. n_warmup: rounds before the first that counts.
    """

    within: float
    least_rounds: int
    most_s: float
    n_warmup: int


@dataclass(kw_only=True)
class TimedRounds:
    """What was timed so far: seconds of both in every round, and whether the dense model began it."""

    dense_s: list[float] = field(default_factory=list)
    sparse_s: list[float] = field(default_factory=list)
    dense_first: list[bool] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Whole rounds."""
        return len(self.dense_first)

    @property
    def ratio(self) -> SpeedRatio:
        """The ratio by these rounds."""
        return speed_ratio(self.dense_s, self.sparse_s)


def timed_rounds(
    sample: TimeSample,
    stop: StopCriterion,
    seed: int,
    clock: Callable[[], float],
    on_round: Callable[[int, float], None],
) -> TimedRounds:
    """Time rounds until `stop` says that it is enough.

    clock: seconds, of the time that goes by. on_round: called before every sample with the rounds that count so far and
    the seconds spent; may raise Cancelled.
    """
    order, found = random.Random(seed), TimedRounds()
    for _ in range(stop.n_warmup):
        _round(sample, order.random() < 0.5, lambda: on_round(0, 0.0))
    started = clock()
    while not _is_enough(found, stop, clock() - started):
        first = order.random() < 0.5
        seconds = _round(sample, first, lambda: on_round(found.n, clock() - started))
        found.dense_s.append(seconds[True])
        found.sparse_s.append(seconds[False])
        found.dense_first.append(first)
    return found


def _round(sample: TimeSample, dense_first: bool, before: Callable[[], None]) -> dict[bool, float]:
    seconds = {}
    for is_dense in (dense_first, not dense_first):
        before()
        seconds[is_dense] = sample(is_dense)
    return seconds


def _is_enough(found: TimedRounds, stop: StopCriterion, spent_s: float) -> bool:
    if found.n < FEWEST_ROUNDS:
        return False
    if spent_s >= stop.most_s or found.n >= MOST_ROUNDS:
        return True
    return found.n >= stop.least_rounds and is_narrow(found.ratio, stop.within)


_STATM = Path("/proc/self/statm")

Pair = tuple[ResidentModel, ResidentModel]
"""The dense model and the sparse one."""


def prefill_sample(model: Any, pair: Pair, ids: Tensor) -> TimeSample:
    """Reads these passages (batch, tokens) and answers at the last token of each."""

    def sample(is_dense: bool) -> float:
        _chosen(pair, is_dense).enter_()
        return _seconds(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), ids.device)

    return sample


def decode_sample(model: Any, pair: Pair, ids: Tensor, n_tokens: int) -> TimeSample:
    """Writes so many tokens after these passages (batch, tokens), the same ones whatever the model would write.

    The passages are read once by either model; each sample writes on from a copy of what it kept of them, and the copy
    is not timed.
    """
    kept: dict[bool, Any] = {}
    written = ids[:, -1:]

    def sample(is_dense: bool) -> float:
        _chosen(pair, is_dense).enter_()
        if is_dense not in kept:
            kept[is_dense] = model(input_ids=ids, use_cache=True, logits_to_keep=1).cache
        cache = copy.deepcopy(kept[is_dense])

        def write() -> None:
            for _ in range(n_tokens):
                model(input_ids=written, cache=cache, use_cache=True, logits_to_keep=1)

        return _seconds(write, ids.device)

    return sample


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadSample:
    """sample: the time of bringing one model's weights into memory. resident: bytes that this takes of it, measured; 0
    where the system does not tell.
    """

    sample: TimeSample
    resident: Callable[[bool], int]


@contextmanager
def load_sample(pair: Pair, folder: Path) -> Iterator[LoadSample]:
    """Inside, brings all weights of one model from a file into memory, and onto the GPU where they are there.

    The files have no name, so that nothing of them stays whatever happens to this process. They were written just now:
    what is timed is reading from the system's cache, not from the disk.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in pair]
        for contender, file in zip(pair, files, strict=True):
            for weight in contender.weights:
                file.write(_bytes_of(weight.detach().cpu()))

        def sample(is_dense: bool) -> float:
            contender, file = _chosen(pair, is_dense), files[0 if is_dense else 1]
            return _seconds(lambda: _read(contender, file), contender.weights[0].device)

        def resident(is_dense: bool) -> int:
            contender, file = _chosen(pair, is_dense), files[0 if is_dense else 1]
            device = contender.weights[0].device
            gc.collect()
            before = _in_use(device)
            held = _read(contender, file)
            return max(0, _in_use(held.device) - before)

        yield LoadSample(sample=sample, resident=resident)


def _in_use(device: torch.device) -> int:
    """Bytes of the GPU that tensors take, or of memory that this process takes; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _read(contender: ResidentModel, file: BinaryIO) -> Tensor:
    """All weights in one piece: many small ones would be given new memory or old as the allocator pleases."""
    file.seek(0)
    place = torch.empty(sum(weight.nbytes for weight in contender.weights), dtype=torch.uint8)
    file.readinto(_bytes_of(place))  # type: ignore[attr-defined]
    return place.to(contender.weights[0].device)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _chosen(pair: Pair, is_dense: bool) -> ResidentModel:
    dense, sparse = pair
    return dense if is_dense else sparse


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes, to the end of what it left on the GPU; without pauses to collect garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _finish(device)
        started = time.perf_counter()
        result = work()
        _finish(device)
        seconds = time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()
    del result
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


FEWEST_LOADS = 12
"""Rounds of loading at most: it is the one that fills the memory anew each time."""


def time_models(
    settings: TimingSettings,
    store: Store,
    pair_cache: ModelPairCache,
    on_step: OnStep = ignore_steps,
    clock: Callable[[], float] = time.monotonic,
) -> Timing:
    """The speed of a sparse record's model beside its dense one, kept under the settings' key once it is whole.

    Raises JobError when a record is gone, its model has changed, or there is nothing to be timed.
    """
    known = store.get(Timing, settings.key())
    if known is not None:
        return known
    widths = _widths(settings, store)
    with pair_cache.pair((settings.dense, settings.sparse), store, on_step) as (dense, sparse):
        if dense.loaded is not sparse.loaded:
            raise JobError("These are not a model and a sparse one made of it.", "Choose two results of one run.")
        if dense.loaded.residency.streamed:
            raise JobError(
                "This model does not fit into the memory of this machine: what would be timed is its disk.",
                "Time it on a machine with more memory.",
            )
        shape, dtype = model_shape(dense.loaded.model.config.to_dict()), settings.dtype or dense.loaded.dtype
        with (
            both_resident(dense, sparse, getattr(torch, dtype)) as pair,
            torch_threads(settings.n_threads),
            torch.inference_mode(),
        ):
            bench = _TimingBench(settings, dense.loaded, pair, on_step, clock)
            found = bench.timing(shape, widths, store.folder)
    store.put(found.key, found)
    return found


def _widths(settings: TimingSettings, store: Store) -> tuple[int, ...]:
    """What the sparse model keeps of each block. Raises JobError where it only has zeros."""
    record = store.get(Record, settings.sparse)
    if record is None:
        raise JobError("The result is not in the store any more.", "Run it again.")
    if record.pruned is None:
        raise JobError("The dense model is not timed beside itself.", "Choose a sparse model.")
    if not record.pruned.method.takes_channels:
        raise JobError(
            "Single weights at zero are not timed: the matrices keep their shapes and their bytes, so no speed-up is "
            "expected from them.",
            "Time a method that removes channels.",
        )
    return record.pruned.widths


class _TimingBench:
    """Both models resident, and what they are given."""

    def __init__(
        self, settings: TimingSettings, loaded: LoadedModel, pair: Pair, on_step: OnStep, clock: Callable[[], float]
    ) -> None:
        self._settings, self._model, self._pair = settings, loaded.model, pair
        self._on_step, self._clock = on_step, clock
        self._dtype = settings.dtype or loaded.dtype
        self._n_prompt = max(1, min(settings.n_prompt, loaded.max_length - settings.n_decode))
        self._n_phases = 2 * len(settings.batches) + 1
        self._done = 0

    def timing(self, shape: ModelShape, widths: tuple[int, ...], folder: Path) -> Timing:
        """All phases, one after another."""
        settings, dense, sparse = self._settings, *self._pair
        started_at, phases = time.time(), []
        for batch in settings.batches:
            load, ids = Workload(batch=batch, n_tokens=self._n_prompt), self._ids(batch)
            reading = prefill_sample(self._model, self._pair, ids)
            phases.append(self._phase("prefill", batch, reading, prefill_ceiling(shape, widths, load)))
            writing = decode_sample(self._model, self._pair, ids, settings.n_decode)
            phases.append(self._phase("decode", batch, writing, decode_ceiling(shape, widths, load, self._dtype)))
        with load_sample(self._pair, folder) as loading:
            phases.append(self._phase("load", 1, loading.sample, dense.n_bytes / sparse.n_bytes))
            resident = loading.resident(True), loading.resident(False)
        return Timing(
            key=settings.key(),
            dense=settings.dense,
            sparse=settings.sparse,
            machine=_machine_name(self._model.device),
            dtype=self._dtype,
            n_threads=torch.get_num_threads(),
            n_prompt=self._n_prompt,
            n_decode=settings.n_decode,
            phases=tuple(phases),
            dense_bytes=dense.n_bytes,
            sparse_bytes=sparse.n_bytes,
            dense_resident=resident[0],
            sparse_resident=resident[1],
            precise=all(is_narrow(p.ratio, settings.within_permille / 1000) for p in phases if p.phase != "load"),
            started_at=started_at,
            versions=software_versions(),
        )

    def _ids(self, batch: int) -> torch.Tensor:
        """Passages of random tokens: how long reading takes does not depend on what they are."""
        drawn = torch.Generator().manual_seed(self._settings.seed)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        return torch.randint(vocabulary, (batch, self._n_prompt), generator=drawn).to(self._model.device)

    def _phase(self, phase: Phase, batch: int, sample: TimeSample, ceiling: float) -> TimedPhase:
        settings = self._settings
        stop = StopCriterion(
            within=settings.within_permille / 1000,
            least_rounds=min(settings.least_rounds, FEWEST_LOADS) if phase == "load" else settings.least_rounds,
            most_s=settings.most_s,
            n_warmup=settings.n_warmup,
        )
        found = timed_rounds(sample, stop, settings.seed, self._clock, self._teller(phase, batch, stop))
        self._done += 1
        return _as_phase(found, phase, batch, ceiling, settings.seed)

    def _teller(self, phase: Phase, batch: int, stop: StopCriterion) -> Callable[[int, float], None]:
        what = {"prefill": "reading", "decode": "writing", "load": "loading"}[phase]
        of = "" if phase == "load" else f", {batch} at once"

        def tell(n_rounds: int, spent_s: float) -> None:
            share = min(99, round(100 * max(min(n_rounds / stop.least_rounds, 0.8), spent_s / stop.most_s)))
            message = f"{what}{of}, " + (f"round {n_rounds + 1}" if spent_s else "warming up")
            self._on_step(Step("time", 100 * self._done + share, 100 * self._n_phases, message=message))

        return tell


def _as_phase(found: TimedRounds, phase: Phase, batch: int, ceiling: float, seed: int) -> TimedPhase:
    return TimedPhase(
        phase=phase,
        batch=batch,
        dense_s=tuple(found.dense_s),
        sparse_s=tuple(found.sparse_s),
        dense_first=tuple(found.dense_first),
        ratio=found.ratio,
        ceiling=ceiling,
    )


def _machine_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def time_run(settings: RunSettings, request: TimingSettings, store: Store, on_step: OnStep = ignore_steps) -> Timing:
    """The speed of the run's last sparse model. request: what is asked for; its record keys are put in.

    Raises whatever a run or a timing raises.
    """
    shelf = ModelShelf()
    run = pipeline.run(settings, store, on_step, shelf)
    wanted = replace(request, dense=run.dense, sparse=run.sparse[-1])
    return time_models(wanted, store, ModelPairCache(shelf), on_step)
