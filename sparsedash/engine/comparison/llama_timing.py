"""Speed in llama.cpp: GGUF files of a run's models, each timed in turn with the dense model's in 16
bits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sparsedash.catalog.families import llama_cpp_problem
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.catalog.model_shape import ModelShape, model_shape, prefill_ceiling, removed_layers
from sparsedash.engine.comparison import llama_timer
from sparsedash.engine.comparison.timing import TimePhase, TimeSample, machine_name, phase_timer
from sparsedash.engine.models.fresh_process import talking_to
from sparsedash.engine.models.gguf_making import dense_gguf_file
from sparsedash.engine.models.gguf_quantising import write_quantised
from sparsedash.engine.models.loading import ModelCache, locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.errors import JobError
from sparsedash.schema.export_settings import EXPORTS, Weights
from sparsedash.schema.pair_records import TimedPhase, Timing, TimingSettings
from sparsedash.schema.progress import OnStep, Step, begin_parts, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import commit_of
from sparsedash.schema.store_keys import model_type_note, quantiser_version
from sparsedash.stats.mean_intervals import is_narrow
from sparsedash.storage.model_folders import require_export_room, swept_folder
from sparsedash.storage.store import Store

_CACHE_BYTES = 2
"""Of a number in the cache."""


def time_files(
    settings: TimingSettings,
    store: Store,
    model_cache: ModelCache,
    on_step: OnStep = ignore_steps,
    clock: Callable[[], float] = time.monotonic,
) -> Timing:
    """The speed of a record's GGUF file, of its type or of 16 bits, against dense's of 16 bits;
    stored when complete.

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
    model_type = store.recall(model_type_note(record.model_identity))
    if problem := llama_cpp_problem(record.model, model_type, [record.pruned.method]):
        raise JobError("This model cannot be timed in llama.cpp.", f"Reason: {problem}.")
    source = locate_model(record.model, store, commit=commit_of(record.model_identity))
    dense_file = dense_gguf_file(
        source, store, begin_parts(Step("load", 0, 1, message="a GGUF file of it"), on_step)
    )
    method, started_at = record.pruned.method, time.time()
    # What its file is made of.
    plain = replace(
        record, pruned=replace(record.pruned, method=method.unquantised, quantised=None)
    )
    made = rebuild_model(plain, store, on_step, model_cache)
    if made.loaded.residency.streamed:
        raise JobError(
            "A model streamed from disk cannot be timed in llama.cpp: its files are written from memory."
        )
    sparse, shape = made.sparse, model_shape(made.loaded.model.config.to_dict())
    assert isinstance(sparse, PrunedChannels), "the shell and the page refuse the others"
    weights: list[tuple[PrunedChannels, Weights]] = [
        (PrunedChannels.dense(made.loaded), "float16"),
        (sparse, method.quantise or "float16"),
    ]
    longest = made.loaded.max_length - settings.n_decode
    n_threads = settings.n_threads or torch.get_num_threads()
    asked = replace(settings, n_prompt=max(1, min(settings.n_prompt, longest)), n_threads=n_threads)
    with swept_folder(store.folder / EXPORTS) as place:
        on_part = begin_parts(Step("write", 0, 1), on_step)
        room, files = (
            partial(require_export_room, place),
            [place / "dense.gguf", place / "sparse.gguf"],
        )
        sizes = [
            write_quantised(
                file, dense_file, *of, is_base=True, require_room=room, on_part=on_part
            ).size
            for file, of in zip(files, weights, strict=True)
        ]
        phases = _timed_phases(
            files,
            asked,
            shape,
            sparse.widths,
            phase_timer(asked, 2 * len(asked.batches), on_step, clock),
        )
    found = Timing(
        key=settings.key(),
        dense=settings.dense,
        sparse=settings.sparse,
        machine=machine_name(torch.device("cpu")),
        dtype=record.dtype,
        runtime="llama.cpp",
        weights=(method.quantise or "f16").upper(),
        n_threads=n_threads,
        n_prompt=asked.n_prompt,
        n_decode=asked.n_decode,
        phases=tuple(phases),
        dense_bytes=sizes[0],
        sparse_bytes=sizes[1],
        precise=all(is_narrow(phase.ratio, settings.within_permille / 1000) for phase in phases),
        started_at=started_at,
        versions=software_versions() | {"llama-cpp-py-sync": quantiser_version()},
    )
    store.put(found.key, found)
    return found


def _timed_phases(
    files: Sequence[Path],
    settings: TimingSettings,
    shape: ModelShape,
    widths: Sequence[int],
    timed: TimePhase,
) -> list[TimedPhase]:
    """Prefill and decode at each batch, in one process with both files open. widths: of the sparse
    model.
    """
    dense_bytes, sparse_bytes = map(_bytes_read, files)
    n_prompt, n_decode, in_file = settings.n_prompt, settings.n_decode, _widths_in(files[1], widths)
    sizes = (settings.n_threads, n_prompt + n_decode, max(settings.batches))
    process, phases = [*map(str, (*files, *sizes))], list[TimedPhase]()
    with talking_to(llama_timer.__file__, process, failed="llama.cpp could not be timed") as ask:

        def sample(phase: str, batch: int) -> TimeSample:
            return lambda is_dense: float(
                ask(f"{int(not is_dense)} {phase} {batch} {n_prompt} {n_decode}")
            )

        for batch in settings.batches:
            reading = prefill_ceiling(shape, in_file, n_prompt)
            phases.append(timed("prefill", batch, sample("prefill", batch), reading))
            cache = _CACHE_BYTES * batch * n_prompt * shape.cache_per_token
            kept = 1 - removed_layers(widths) / len(widths)
            fetched = (dense_bytes + cache) / (sparse_bytes + kept * cache)
            phases.append(timed("decode", batch, sample("decode", batch), fetched))
    return phases


def _bytes_read(file: Path) -> int:
    """Of the file's tensors what is read for a token: only a row of an embedding that is not the
    head as well.
    """
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in opened_gguf(file).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    return sum(tensors.values())


def _widths_in(file: Path, widths: Sequence[int]) -> Sequence[int]:
    """Widths as they are in a file: where it has room for one alone, all MLPs are filled up to the
    widest.
    """
    said = opened_gguf(file).values
    own = said[f"{said['general.architecture']}.feed_forward_length"]
    return widths if isinstance(own, list) else [max(widths) if width else 0 for width in widths]
