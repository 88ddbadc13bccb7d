"""Speed in llama.cpp: a sparse model's GGUF file timed in turn with the dense one's."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.catalog.model_sizes import prefill_ceiling
from sparsedash.engine.comparison import llama_timer
from sparsedash.engine.comparison.timing import (
    TimedWork,
    TimeSample,
    is_precise,
    machine_name,
    time_phases,
)
from sparsedash.engine.models.fresh_process import talking_to
from sparsedash.engine.models.gguf_making import dense_gguf_file
from sparsedash.engine.models.gguf_quantising import write_quantised
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.errors import JobError
from sparsedash.schema.export_settings import EXPORTS
from sparsedash.schema.model_shape import KeptParts, ModelShape
from sparsedash.schema.pair_records import Phase, Timing, TimingSettings
from sparsedash.schema.progress import OnStep, Step, begin_parts, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import commit_of
from sparsedash.schema.sparse_spec import quantiser_version
from sparsedash.storage.model_folders import require_export_room, swept_folder
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import Store

_CACHE_BYTES = 2
"""Of a number in the cache."""


def time_files(
    settings: TimingSettings,
    store: Store,
    model_cache: ModelCache,
    on_step: OnStep = ignore_steps,
) -> Timing:
    """The speed of a record's GGUF file against the dense one in 16 bits; stored when complete.

    Raises JobError where a record is gone, its model has changed or has no GGUF file, and
    ExportError where llama.cpp fails.
    """
    if known := store.get(Timing, settings.key()):
        return known
    record = store.get(Record, settings.sparse)
    if record is None or record.pruned is None:
        raise JobError(
            "There is no model to time: its result is no longer stored, or is dense.",
            "Run it again.",
        )
    shape = known_shape(store, record.model_identity)
    family = shape.family if shape else None
    if problem := llama_cpp_problem(record.model, family, [record.pruned.method]):
        raise JobError(
            "This model cannot be timed in llama.cpp.", f"Reason: {problem}."
        )
    source = locate_model(record.model, store, commit=commit_of(record.model_identity))
    dense_file = dense_gguf_file(
        source,
        store,
        begin_parts(Step("load", 0, 1, message="a GGUF file of it"), on_step),
    )
    started_at = time.time()
    spec = record.pruned.spec
    # What its file is made of.
    full = replace(record.pruned, spec=spec.before_quantising, quantised=None)
    rebuilt = rebuild_model(replace(record, pruned=full), store, on_step, model_cache)
    loaded = rebuilt.loaded
    sparse = rebuilt.sparse
    if loaded.residency.streamed:
        raise JobError(
            "A model streamed from disk cannot be timed in llama.cpp: its files are written from memory."
        )
    assert isinstance(sparse, PrunedChannels), (
        "the shell and the page refuse the others"
    )
    longest = loaded.max_length - settings.n_decode
    n_threads = settings.n_threads or torch.get_num_threads()
    n_prompt = max(1, min(settings.n_prompt, longest))
    adapted = replace(settings, n_prompt=n_prompt, n_threads=n_threads)
    with swept_folder(store.folder / EXPORTS) as folder:
        write = partial(
            write_quantised,
            is_base=True,
            require_room=partial(require_export_room, folder),
            on_part=begin_parts(Step("write", 0, 1), on_step),
        )
        files = [folder / "dense.gguf", folder / "sparse.gguf"]
        dense = write(files[0], dense_file, PrunedChannels.dense(loaded), "float16")
        pruned = write(files[1], dense_file, sparse, spec.weights)
        shape = loaded.shape
        with _llama_cpp(files, adapted) as ask:
            works = _works(ask, files, adapted, shape, sparse.kept)
            phases = time_phases(
                works, 2 * len(adapted.batches), adapted, on_step, time.monotonic
            )
    timing = Timing(
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        machine=machine_name(torch.device("cpu")),
        dtype=record.dtype,
        runtime="llama.cpp",
        weights=spec.weights.upper() if spec.is_quantised else "F16",
        n_threads=n_threads,
        n_prompt=n_prompt,
        n_decode=settings.n_decode,
        phases=phases,
        dense_bytes=dense.size,
        sparse_bytes=pruned.size,
        precise=all(is_precise(phase.ratio, settings) for phase in phases),
        started_at=started_at,
        versions=software_versions() | {"llama-cpp-py-sync": quantiser_version()},
    )
    store.put(timing.key, timing)
    return timing


def _llama_cpp(
    files: Sequence[Path], settings: TimingSettings
) -> AbstractContextManager[Callable[[str], str]]:
    """A process with both files open, which is asked for one sample after another."""
    longest = settings.n_prompt + settings.n_decode
    sizes = (settings.n_threads, longest, max(settings.batches))
    arguments = [*map(str, (*files, *sizes))]
    return talking_to(
        llama_timer.__file__, arguments, failed="llama.cpp could not be timed"
    )


def _works(
    ask: Callable[[str], str],
    files: Sequence[Path],
    settings: TimingSettings,
    shape: ModelShape,
    kept: KeptParts,
) -> Iterator[TimedWork]:
    """Prefill and decode at each batch. kept: of the sparse model."""
    n_prompt = settings.n_prompt
    dense_bytes, sparse_bytes = map(_bytes_read, files)
    in_file = replace(kept, widths=_widths_in(files[1], kept.widths))
    share_of_layers = 1 - len(kept.removed_layers) / len(kept.widths)

    def sample(phase: Phase, batch: int) -> TimeSample:
        request = f"{phase} {batch} {n_prompt} {settings.n_decode}"
        return lambda is_dense: float(ask(f"{int(not is_dense)} {request}"))

    for batch in settings.batches:
        yield TimedWork(
            phase="prefill",
            batch=batch,
            sample=sample("prefill", batch),
            ceiling=prefill_ceiling(shape, in_file, n_prompt),
        )
        cache = _CACHE_BYTES * batch * n_prompt * shape.cache_per_token
        yield TimedWork(
            phase="decode",
            batch=batch,
            sample=sample("decode", batch),
            ceiling=(dense_bytes + cache) / (sparse_bytes + share_of_layers * cache),
        )


def _bytes_read(file: Path) -> int:
    """Bytes of the file read for each token: of an embedding apart from the head, only a row."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in opened_gguf(file).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    return sum(tensors.values())


def _widths_in(file: Path, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Widths as in the file: all the widest, where its format has room for one width."""
    values = opened_gguf(file).values
    in_file = values[f"{values['general.architecture']}.feed_forward_length"]
    if isinstance(in_file, list):
        return widths
    return tuple(max(widths) if width else 0 for width in widths)
