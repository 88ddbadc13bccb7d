"""Speed of a sparse model against its dense one in torch: prefill, decode and loading."""

import copy
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from torch import Tensor

from sparsedash.catalog.model_sizes import decode_ceiling, prefill_ceiling
from sparsedash.engine.comparison.model_pair import (
    ModelPairCache,
    ResidentModel,
    both_resident,
)
from sparsedash.engine.comparison.timing import (
    Clock,
    TimedWork,
    TimeSample,
    is_precise,
    machine_name,
    time_phases,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import torch_threads
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.errors import JobError
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import Dtype
from sparsedash.storage.store import Store

Pair = tuple[ResidentModel, ResidentModel]
"""The dense model and the sparse one."""


def prefill_sample(model: Any, pair: Pair, ids: Tensor) -> TimeSample:
    """Prefill: read these passages (batch, tokens), with logits of the last token of each."""

    def sample(is_dense: bool) -> float:
        pair[not is_dense].enter_()
        return _seconds(
            lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), ids.device
        )

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
            kept[is_dense] = model(
                input_ids=ids, use_cache=True, logits_to_keep=1
            ).cache
        cache = copy.deepcopy(kept[is_dense])

        def write() -> None:
            for _ in range(n_tokens):
                model(
                    input_ids=ids[:, -1:], cache=cache, use_cache=True, logits_to_keep=1
                )

        return _seconds(write, ids.device)

    return sample


class LoadFiles:
    """The weights of both models in a file each, read into memory or onto the GPU.

    The files have no name, so that a crash leaves nothing. They were written just now: the system's
    cache is read, not the disk.
    """

    def __init__(self, pair: Pair, folder: Path) -> None:
        self._pair = pair
        self._device = pair[0].weights[0].device
        self._files = [tempfile.TemporaryFile(dir=folder) for _ in pair]  # noqa: SIM115 - closed below
        for model, file in zip(pair, self._files, strict=True):
            for weight in model.weights:
                file.write(_bytes_of(weight.detach().cpu()))

    def close(self) -> None:
        """Delete the files."""
        for file in self._files:
            file.close()

    def sample(self, is_dense: bool) -> float:
        """Seconds of loading all weights of one model."""
        return _seconds(lambda: self._load(is_dense), self._device)

    def resident_bytes(self, is_dense: bool) -> int:
        """Bytes of memory that loading takes, measured; 0 where the system does not tell."""
        gc.collect()
        before = _bytes_in_use(self._device)
        weights = self._load(is_dense)
        return max(0, _bytes_in_use(weights.device) - before)

    def _load(self, is_dense: bool) -> Tensor:
        """All weights in one piece: where many small ones are placed is up to the allocator."""
        model = self._pair[not is_dense]
        file = self._files[not is_dense]
        file.seek(0)
        n_bytes = sum(weight.nbytes for weight in model.weights)
        place = torch.empty(n_bytes, dtype=torch.uint8)
        file.readinto(_bytes_of(place))
        return place.to(self._device)


def _bytes_in_use(device: torch.device) -> int:
    """Bytes of GPU tensors, or of this process's memory; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()
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
    clock: Clock = time.monotonic,
) -> Timing:
    """The speed of a sparse record's model against its dense one; stored when complete.

    Raises JobError when a record is gone, its model has changed, or there is nothing to time.
    """
    if known := store.get(Timing, settings.key()):
        return known
    widths = _kept(store.get(Record, settings.sparse))
    with pair_cache.models((settings.dense, settings.sparse), store, on_step) as (
        dense,
        sparse,
    ):
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
        _require_cache(loaded)
        dtype: Dtype = settings.dtype or loaded.dtype
        resident = both_resident(dense, sparse, getattr(torch, dtype))
        with (
            resident as pair,
            torch_threads(settings.n_threads),
            torch.inference_mode(),
        ):
            timing = _timing(
                settings, widths, loaded, pair, dtype, store.folder, on_step, clock
            )
    store.put(timing.key, timing)
    return timing


@torch.inference_mode()
def _require_cache(loaded: LoadedModel) -> None:
    """Raises JobError if the model's own forward returns nothing to write on from."""
    token = torch.zeros(1, 1, dtype=torch.long, device=loaded.model.device)
    output = loaded.model(input_ids=token, use_cache=True, logits_to_keep=1)
    if getattr(output, "cache", None) is None:
        raise JobError(
            "This kind of model cannot be timed: its state is kept inside the model, not in a cache.",
            "Compare sizes and losses instead.",
        )


def _kept(record: Record | None) -> KeptParts:
    """The parts that the model keeps. Raises JobError if it is not timed."""
    if record is None or record.pruned is None:
        raise JobError(
            "There is no sparse model to time: its result is no longer stored, or is dense.",
            "Choose another, or run it.",
        )
    if not record.pruned.method.is_structured:
        raise JobError(
            "Single weights at zero are not timed: the matrices keep their shapes and their bytes, so no speed-up is "
            "expected from them.",
            "Time a method that removes channels.",
        )
    if record.pruned.spec.is_quantised:
        raise JobError(
            "A quantised model is not timed: here its weights are full numbers again, as fast as before.",
            "Time the model that it was made of.",
        )
    return record.pruned.kept


def _timing(
    settings: TimingSettings,
    kept: KeptParts,
    loaded: LoadedModel,
    pair: Pair,
    dtype: Dtype,
    folder: Path,
    on_step: OnStep,
    clock: Clock,
) -> Timing:
    """kept: of the sparse model."""
    started_at = time.time()
    dense, sparse = pair
    n_prompt = max(1, min(settings.n_prompt, loaded.max_length - settings.n_decode))
    with closing(LoadFiles(pair, folder)) as files:
        ceiling = dense.n_bytes / sparse.n_bytes
        loading = TimedWork(phase="load", sample=files.sample, ceiling=ceiling)
        works = chain(_text_works(settings, kept, loaded, pair, n_prompt), [loading])
        phases = time_phases(
            works, 2 * len(settings.batches) + 1, settings, on_step, clock
        )
        dense_resident = files.resident_bytes(True)
        sparse_resident = files.resident_bytes(False)
    return Timing(
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        machine=machine_name(loaded.model.device),
        dtype=dtype,
        n_threads=torch.get_num_threads(),
        n_prompt=n_prompt,
        n_decode=settings.n_decode,
        phases=phases,
        dense_bytes=dense.n_bytes,
        sparse_bytes=sparse.n_bytes,
        dense_resident=dense_resident,
        sparse_resident=sparse_resident,
        precise=all(
            is_precise(phase.ratio, settings)
            for phase in phases
            if phase.phase != "load"
        ),
        started_at=started_at,
        versions=software_versions(),
    )


def _text_works(
    settings: TimingSettings,
    kept: KeptParts,
    loaded: LoadedModel,
    pair: Pair,
    n_prompt: int,
) -> Iterator[TimedWork]:
    """Prefill and decode at every batch."""
    model = loaded.model
    shape = loaded.shape
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for batch in settings.batches:
        # Random tokens: the time does not depend on them.
        generator = torch.Generator().manual_seed(settings.seed)
        ids = torch.randint(vocabulary, (batch, n_prompt), generator=generator).to(
            model.device
        )
        yield TimedWork(
            phase="prefill",
            batch=batch,
            sample=prefill_sample(model, pair, ids),
            ceiling=prefill_ceiling(shape, kept, n_prompt),
        )
        yield TimedWork(
            phase="decode",
            batch=batch,
            sample=decode_sample(model, pair, ids, settings.n_decode),
            ceiling=decode_ceiling(shape, kept, batch=batch, n_tokens=n_prompt),
        )
