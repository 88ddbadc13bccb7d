"""Export of a sparse model: rebuilt from its record, written, proven by a fresh process, then given its name."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError

from sparsedash.catalog.families import form_problem, require_form, shared_width
from sparsedash.catalog.presets import method_name
from sparsedash.engine.export.export_files import (
    config_changes,
    copy_base_files,
    exported_tensors,
    plan_gguf,
    require_full_gguf,
    tensors_bytes,
    write_checkpoint,
    write_gguf,
)
from sparsedash.engine.export.model_card import CardFacts, base_facts, model_card, public_model, recipe_json
from sparsedash.engine.export.reload_proof import (
    ExpectedAnswers,
    expected_answers,
    prove_folder,
    prove_gguf,
    require_llama_cpp,
    round_weights_,
)
from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.loading import ModelShelf, gguf_file, locate_model
from sparsedash.engine.models.model_conversion import content_hash
from sparsedash.engine.run.sparse_models import PrunedChannels, RebuiltModel, SparseModel, rebuild_model
from sparsedash.reporting.run_results import Judged, StoredResults, judged_alone, run_results
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ExportError, JobError, SettingsError
from sparsedash.schema.export_settings import Export, ExportSettings, Proof
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Passages, Pruned, Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.local_machine import free_in_words, local_path
from sparsedash.storage.model_folders import RECIPE, new_folder, require_export_room, require_new, sweep_exports
from sparsedash.storage.store import Store

CARD = "README.md"
STREAMED_SHARD_MB = 1_000
"""The largest file of weights that stay in files themselves: it goes through memory whole."""

_NAMING = "exports.lock"
"""Of the data folder: held from an export's record to its folder's name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Request:
    """What is exported: the request, and what the store has of it.

    run: None where the request names none. sparse: with the names of model and texts as its run was asked for.
    """

    settings: ExportSettings
    run: Run | None
    dense: Record
    sparse: Record
    pruned: Pruned
    passages: Passages


@dataclass(frozen=True, eq=False, kw_only=True)
class _WrittenFiles:
    """What the files hold. size, base_size: bytes of the weights, of the sparse model and of the dense one."""

    layout: str
    size: int
    base_size: int
    file: str = ""


def export_model(settings: ExportSettings, store: Store, shelf: ModelShelf, on_step: OnStep) -> Export:
    """The files of one record's sparse model, proven; its record is kept.

    What the same request has made before is returned as it is, if it is whole. Raises SparseDashError, and then nothing
    new stands under the folder's name: it exists, the base has changed, the form does not apply, the disk is full, or a
    fresh process does not find in the files what they are to be.
    """
    asked = _read_request(settings, store)
    pruned = asked.pruned
    _refuse_form(settings, pruned, store.recall(store_keys.model_type_note(asked.sparse.model_identity)))
    method = method_name(pruned.method)
    folder = settings.folder(store.folder, public_model(asked.sparse), method, pruned.sparsity_permille)
    folder = local_path(str(folder)).absolute()
    sweep_exports(folder.parent)
    if known := _earlier_export(settings, folder, store):
        return known
    if settings.run and (asked.run is None or settings.sparse not in asked.run.sparse):
        raise JobError("The run of this sparse model is not in the store any more.", "Run it again.")
    require_new(folder)
    made = rebuild_model(asked.sparse, store, on_step, shelf)
    model_type = made.loaded.model.config.model_type
    _refuse_form(settings, pruned, model_type)
    if made.loaded.residency.streamed and not _is_unrounded(settings, made):
        raise ExportError(
            f"This model does not fit into the memory of this machine, and what is rounded to {settings.weights} could "
            "not be proven here.",
            f"Write it in {made.loaded.dtype}, or on a machine with more memory.",
        )
    with _write_errors(folder), ExitStack() as naming, new_folder(folder) as inside:
        on_step(Step("write", 0, 1, message=folder.name))
        written = _write(inside, folder, asked, made, store)
        proof = _proven(inside, asked, made, written, shelf, on_step)
        files = _describe(inside, asked, made, written, proof, store)
        found = Export(
            key=settings.key(),
            settings=settings,
            folder=str(folder),
            layout=written.layout,
            model=asked.sparse.model,
            model_identity=asked.sparse.model_identity,
            model_type=model_type,
            n_bytes=sum(file.stat().st_size for file in inside.iterdir()),
            base_bytes=written.base_size,
            files=files,
            proof=proof,
            made_at=time.time(),
        )
        # Recorded before it has its name: a kill between the two leaves nothing that no page lists.
        naming.enter_context(FileLock(store.folder / _NAMING))
        require_new(folder)
        store.put(found.key, found)
    return found


def require_exportable(run: RunSettings, asked: ExportSettings, store: Store) -> None:
    """Raise SettingsError where what this run will make cannot be written as asked; no weights are read.

    Raises ModelError where its model is not found.
    """
    source = locate_model(run.model, store)
    require_form(asked.form, *run.points[0], read_config(source.folder, source.reference).model_type)
    if asked.form == "gguf":
        require_llama_cpp()
        file, is_base = _dense_gguf(run.model, asked)
        require_full_gguf(file, is_base=is_base)


def prove_export(found: Export, folder: Path, store: Store, shelf: ModelShelf, on_step: OnStep) -> Proof:
    """The proof of a folder that was exported before, wherever it lies now; the store's record of it is renewed.

    Raises ExportError where a file is not what was written, or the proof does not hold.
    """
    now = file_hashes(folder)
    if changed := sorted(name for name in found.files.keys() | now.keys() if found.files.get(name) != now.get(name)):
        raise ExportError(
            f"{folder} is not what was written: {', '.join(changed[:5])} changed, came or went.", "Export it again."
        )
    asked = _read_request(found.settings, store)
    made = rebuild_model(replace(asked.sparse, model=found.model), store, on_step, shelf)
    file = next((name for name in now if name.endswith(".gguf")), "")
    written = _WrittenFiles(layout=found.layout, size=0, base_size=found.base_bytes, file=file)
    return _proven(folder, asked, made, written, shelf, on_step)


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file by its name, but of the card: that is somebody's to write on."""
    return {file.name: content_hash(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name != CARD}


def _read_request(settings: ExportSettings, store: Store) -> _Request:
    dense, sparse = (store.get(Record, key) for key in (settings.dense, settings.sparse))
    if dense is None or sparse is None or sparse.pruned is None:
        raise JobError("The sparse model's result is not in the store any more.", "Run it again.")
    passages = store.get(Passages, sparse.passages_key)
    if passages is None:
        raise JobError("The passages that it answered are not in the store any more.", "Run it again.")
    run = store.get(Run, settings.run) if settings.run else None
    if run is not None:
        # A record is found by content: it may name the first place that held the same bytes.
        pruned = replace(sparse.pruned, calibration=run.settings.calibration)
        sparse = replace(sparse, model=run.settings.model, corpus=run.settings.evaluation.corpus, pruned=pruned)
    assert sparse.pruned is not None
    return _Request(settings=settings, run=run, dense=dense, sparse=sparse, pruned=sparse.pruned, passages=passages)


def _earlier_export(settings: ExportSettings, folder: Path, store: Store) -> Export | None:
    """What this request has made before, if it is there and as it was written."""
    known = store.get(Export, settings.key())
    if known is None or not folder.is_dir() or file_hashes(folder) != known.files:
        return None
    return replace(known, folder=str(folder))


def _refuse_form(settings: ExportSettings, pruned: Pruned, model_type: str | None) -> None:
    if problem := form_problem(settings.form, pruned, model_type):
        raise ExportError(f"This model cannot be written as {settings.form}: {problem}.", "Choose another form.")
    if settings.form == "gguf":
        require_llama_cpp()


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """What goes wrong while files are written, in words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        room = free_in_words(OSError(), folder.parent)
        raise ExportError(
            f"{folder} could not be written: {reason}. {room}".strip(), "Free some space, or name another folder."
        ) from error


def _write(inside: Path, folder: Path, asked: _Request, made: RebuiltModel, store: Store) -> _WrittenFiles:
    settings, sparse = asked.settings, _sparse(made)
    if settings.form == "gguf":
        return _write_gguf(inside, folder, asked, made, store)
    family = made.loaded.family
    width = None if settings.form == "masked" else shared_width(asked.pruned, made.loaded.model.config.model_type)
    tensors = exported_tensors(sparse, width, settings.weights)
    require_export_room(folder, tensors_bytes(tensors))
    changes = config_changes(made.source, family.width, width, settings.weights)
    residency = made.loaded.residency
    shard_mb = min(settings.shard_mb, STREAMED_SHARD_MB) if residency.streamed else settings.shard_mb
    write_checkpoint(inside, made.source, tensors, shard_mb, changes, residency.drop)
    each = next(tensor.element_size() for tensor in tensors.values() if tensor.is_floating_point())
    dense = sum(parameter.numel() for parameter in made.loaded.model.parameters()) * each
    layout = f"{width:,} channels in every block" if width else "the dense widths, zeros where something is gone"
    if settings.form == "padded":
        layout += ", filled up with zeros where fewer are left"
    return _WrittenFiles(layout=layout, size=tensors_bytes(tensors), base_size=dense)


def _write_gguf(inside: Path, folder: Path, asked: _Request, made: RebuiltModel, store: Store) -> _WrittenFiles:
    settings, sparse = asked.settings, _sparse(made)
    assert isinstance(sparse, PrunedChannels), "form_problem has refused the other shape"
    file, is_base = _dense_gguf(asked.sparse.model, settings)
    plan = plan_gguf(file, sparse, is_base=is_base)
    require_export_room(folder, plan.n_bytes(settings.weights))
    name = f"{folder.name}.gguf"
    write_gguf(inside / name, plan, settings.weights)
    size, dense = plan.n_bytes(settings.weights), plan.base_bytes(settings.weights)
    return _WrittenFiles(layout=plan.layout, size=size, base_size=dense, file=name)


def _dense_gguf(model: str, settings: ExportSettings) -> tuple[Path, bool]:
    """The dense model's GGUF file, and whether it is what was pruned."""
    if base := gguf_file(model):
        return base, True
    if not settings.dense_gguf:
        raise SettingsError(
            "dense GGUF",
            "",
            "a GGUF file of the dense model with F32, F16 or BF16 weights, from which the tokenizer's part is copied",
        )
    return local_path(settings.dense_gguf), False


def _sparse(made: RebuiltModel) -> SparseModel:
    assert made.sparse is not None
    return made.sparse


def _proven(
    inside: Path, asked: _Request, made: RebuiltModel, written: _WrittenFiles, shelf: ModelShelf, on_step: OnStep
) -> Proof:
    on_step(Step("prove", 0, 2, message="Asking the model in memory"))
    expected = _expected(asked, made, shelf)
    on_step(Step("prove", 1, 2, message="Asking the files"))
    if asked.settings.form == "gguf":
        proof = prove_gguf(inside / written.file, expected, asked.settings.weights, on_step)
    else:
        proof = prove_folder(inside, expected, on_step)
    on_step(Step("prove", 2, 2))
    return proof


def _is_unrounded(settings: ExportSettings, made: RebuiltModel) -> bool:
    return settings.weights in (made.loaded.dtype, "float32")


def _expected(asked: _Request, made: RebuiltModel, shelf: ModelShelf) -> ExpectedAnswers:
    loaded, settings = made.loaded, asked.settings
    unrounded = _is_unrounded(settings, made)
    with _sparse(made).applied(), torch.inference_mode():
        if not unrounded:
            # In place, since there may be no room for a second model; the dense one is read anew when it is needed.
            shelf.let_go()
            round_weights_(loaded.model, settings.form, settings.weights)
        return expected_answers(loaded, asked.sparse, asked.passages, strict=unrounded)


def _describe(
    inside: Path, asked: _Request, made: RebuiltModel, written: _WrittenFiles, proof: Proof, store: Store
) -> dict[str, str]:
    """Write the recipe and the card. Returns the sha256 of every file, as `file_hashes` does."""
    if written.file:
        copy_base_files(made.source, inside)
    files = file_hashes(inside)
    (inside / RECIPE).write_text(recipe_json(asked.settings, asked.sparse, made, proof, files), encoding="utf-8")
    tolerance = _tolerance(asked.run)
    facts = CardFacts(
        settings=asked.settings,
        base=base_facts(made.source, asked.sparse),
        dense=asked.dense,
        sparse=asked.sparse,
        judged=_judged(asked, tolerance, store),
        tolerance=tolerance,
        proof=proof,
        layout=written.layout,
        size=written.size,
        base_size=written.base_size,
        file=written.file,
    )
    (inside / CARD).write_text(model_card(facts), encoding="utf-8")
    return files | {RECIPE: content_hash(inside / RECIPE)}


def _tolerance(run: Run | None) -> Tolerance:
    """What may be lost: as a search was asked for, else as usual."""
    found = run and run.find
    return Tolerance(ratio=found.ratio, points=found.points) if found else Tolerance()


def _judged(asked: _Request, tolerance: Tolerance, store: Store) -> Judged:
    """The sparse model beside dense, among all of its run."""
    found = run_results(StoredResults(store), asked.run, tolerance)
    of_run = found.judged if found else ()
    alone = judged_alone(asked.dense, asked.sparse, tolerance)
    return next((each for each in of_run if each.record.key == asked.sparse.key), alone)
