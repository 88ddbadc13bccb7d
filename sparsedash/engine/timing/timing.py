"""Times two records' models in turn: reading, writing and loading, each until its ratio is known well enough."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sparsedash.catalog.costs import Load, decode_ceiling, prefill_ceiling
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.model_shape import note_shape, shape_of
from sparsedash.engine.models.products import torch_threads
from sparsedash.engine.run.run_log import versions
from sparsedash.engine.timing.contenders import both_resident
from sparsedash.engine.timing.rounds import Rounds, Sample, Stop, timed_rounds
from sparsedash.engine.timing.samples import Pair, decode_sample, load_sample, prefill_sample
from sparsedash.schema.errors import JobError
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.pair_records import Phase, TimedPhase, Timing
from sparsedash.schema.pair_settings import TimingSettings
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.stats.speed_ratio import is_narrow
from sparsedash.storage.store import Store

LOADS = 12
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
        note_shape(dense.loaded, store)
        shape, dtype = shape_of(dense.loaded), settings.dtype or dense.loaded.dtype
        with (
            both_resident(dense, sparse, getattr(torch, dtype)) as pair,
            torch_threads(settings.n_threads),
            torch.inference_mode(),
        ):
            bench = _Bench(settings, dense.loaded, pair, on_step, clock)
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


class _Bench:
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
            load, ids = Load(batch=batch, n_tokens=self._n_prompt), self._ids(batch)
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
            machine=_machine(self._model.device),
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
            versions=versions(),
        )

    def _ids(self, batch: int) -> torch.Tensor:
        """Passages of random tokens: how long reading takes does not depend on what they are."""
        drawn = torch.Generator().manual_seed(self._settings.seed)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        return torch.randint(vocabulary, (batch, self._n_prompt), generator=drawn).to(self._model.device)

    def _phase(self, phase: Phase, batch: int, sample: Sample, ceiling: float) -> TimedPhase:
        settings = self._settings
        stop = Stop(
            within=settings.within_permille / 1000,
            least_rounds=min(settings.least_rounds, LOADS) if phase == "load" else settings.least_rounds,
            most_s=settings.most_s,
            n_warmup=settings.n_warmup,
        )
        found = timed_rounds(sample, stop, settings.seed, self._clock, self._teller(phase, batch, stop))
        self._done += 1
        return _as_phase(found, phase, batch, ceiling, settings.seed)

    def _teller(self, phase: Phase, batch: int, stop: Stop) -> Callable[[int, float], None]:
        what = {"prefill": "reading", "decode": "writing", "load": "loading"}[phase]
        of = "" if phase == "load" else f", {batch} at once"

        def tell(n_rounds: int, spent_s: float) -> None:
            share = min(99, round(100 * max(min(n_rounds / stop.least_rounds, 0.8), spent_s / stop.most_s)))
            message = f"{what}{of}, " + (f"round {n_rounds + 1}" if spent_s else "warming up")
            self._on_step(Step("time", 100 * self._done + share, 100 * self._n_phases, message=message))

        return tell


def _as_phase(found: Rounds, phase: Phase, batch: int, ceiling: float, seed: int) -> TimedPhase:
    return TimedPhase(
        phase=phase,
        batch=batch,
        dense_s=tuple(found.dense_s),
        sparse_s=tuple(found.sparse_s),
        dense_first=tuple(found.dense_first),
        ratio=found.ratio,
        ceiling=ceiling,
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
