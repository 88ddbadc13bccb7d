"""Export of a sparse model: rebuilt, written, proven by a fresh process, then renamed."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from sparsedash.catalog.export_forms import FORMS, form_problem, require_form
from sparsedash.catalog.gguf_names import tensor_types
from sparsedash.catalog.presets import spec_name
from sparsedash.engine.export.export_files import copy_base_files, write_folder
from sparsedash.engine.export.recipe import base_licence, recipe_json
from sparsedash.engine.export.reload_proof import prove_files
from sparsedash.engine.models.gguf_making import dense_gguf_file
from sparsedash.engine.models.gguf_quantising import (
    MADE_BY_LLAMA_CPP,
    read_back,
    write_quantised,
)
from sparsedash.engine.models.gguf_writing import require_full_gguf, require_known
from sparsedash.engine.models.loading import LoadedModel, ModelCache
from sparsedash.engine.models.locating import Source, gguf_file, locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.run.model_making import RebuiltModel, rebuild_model
from sparsedash.schema.card_facts import CardFacts, RenderCard, public_model
from sparsedash.schema.errors import ExportError, JobError
from sparsedash.schema.export_settings import (
    CARD,
    Export,
    ExportSettings,
    Form,
    Proof,
    WrittenFiles,
)
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import OnPart, OnStep, Step, begin_parts, ignore
from sparsedash.schema.records import Passages, Pruned, Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.file_hashes import content_hash
from sparsedash.storage.local_machine import free_in_words, local_path
from sparsedash.storage.model_folders import (
    RECIPE,
    new_folder,
    require_export_room,
    require_new,
    sweep_exports,
)
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import Store


@dataclass(frozen=True, eq=False, kw_only=True)
class _Request:
    """The stored results of a request. sparse: with the names in its run's settings."""

    run: Run | None
    dense: Record
    sparse: Record
    pruned: Pruned
    passages: Passages

    @classmethod
    def of(cls, settings: ExportSettings, store: Store) -> "_Request":
        """Read from the store. Raises JobError where a result is gone."""
        dense = store.get(Record, settings.dense)
        sparse = store.get(Record, settings.sparse)
        passages = store.get(Passages, sparse.passages_key) if sparse else None
        if dense is None or sparse is None or sparse.pruned is None or passages is None:
            raise JobError(
                "The sparse model's result is no longer stored.", "Run it again."
            )
        run = store.get(Run, settings.run) if settings.run else None
        pruned = sparse.pruned
        if run is not None:
            # A record is found by content: it may name the first place that held the same bytes.
            pruned = replace(pruned, calibration=run.settings.calibration)
            sparse = replace(
                sparse,
                model=run.settings.model,
                corpus=run.settings.evaluation.corpus,
                pruned=pruned,
            )
        return cls(
            run=run, dense=dense, sparse=sparse, pruned=pruned, passages=passages
        )


def export_model(
    settings: ExportSettings,
    store: Store,
    model_cache: ModelCache,
    on_step: OnStep,
    render_card: RenderCard,
) -> Export:
    """Write and prove the files of one record's sparse model; the export is recorded in the store.

    An intact earlier export of the same request is returned. Raises SparseDashError, and then the
    folder does not exist: its name is taken, the base has changed, the form does not apply, the
    disk is full, or the proof fails.
    """
    request = _Request.of(settings, store)
    pruned = request.pruned
    sparse = request.sparse
    folder = _folder(settings, sparse, pruned, store)
    sweep_exports(folder.parent)
    dense_file = local_path(settings.dense_gguf)
    dense_hash = (
        content_hash(dense_file) if settings.dense_gguf and dense_file.is_file() else ""
    )
    known = _known_export(settings, store, folder, dense_hash)
    if known is not None:
        return known
    if settings.run and (
        request.run is None or settings.sparse not in request.run.sparse
    ):
        raise JobError(
            "The run of this sparse model is no longer stored.", "Run it again."
        )
    require_new(folder)
    refuse_form(settings.form, pruned, known_shape(store, sparse.model_identity), FORMS)
    rebuilt = rebuild_model(sparse, store, on_step, model_cache)
    refuse_form(settings.form, pruned, rebuilt.loaded.shape, FORMS)
    _require_provable(settings, rebuilt.loaded)
    with _write_errors(folder), new_folder(folder) as inside:
        on_part = begin_parts(Step("write", 0, 1, message=folder.name), on_step)
        written = _write(inside, folder, settings, request, rebuilt, store, on_part)
        meant, types = _as_quantised(inside / written.file, settings, rebuilt, store)
        written = replace(written, layout=f"{written.layout}{types}")
        proof = prove_files(
            inside / written.file,
            settings,
            sparse,
            request.passages,
            meant,
            model_cache,
            on_step,
        )
        files = file_hashes(inside)
        (inside / RECIPE).write_text(
            recipe_json(settings, sparse, rebuilt, proof, files), encoding="utf-8"
        )
        _write_card(inside, settings, request, rebuilt, proof, written, render_card)
        n_bytes = sum(
            file.stat().st_size for file in inside.rglob("*") if file.is_file()
        )
        export = Export(
            key=settings.key(),
            settings=settings,
            folder=str(folder),
            layout=written.layout,
            model=sparse.model,
            model_identity=sparse.model_identity,
            model_type=rebuilt.loaded.shape.family,
            n_bytes=n_bytes,
            # The tokenizer and whatever else is no weight counts on both sides.
            base_bytes=written.base_size + n_bytes - written.size,
            files=files | {RECIPE: content_hash(inside / RECIPE)},
            proof=proof,
            made_at=time.time(),
            dense_gguf_hash=dense_hash,
        )
        # Recorded before it has its name: a kill between the two leaves no folder without a record.
        require_new(folder)
        store.put(export.key, export)
    return export


def _folder(
    settings: ExportSettings, sparse: Record, pruned: Pruned, store: Store
) -> Path:
    """The absolute folder of an export, named after its model, method and sparsity."""
    share = f"{pruned.sparsity_permille / 10:g}pct"
    if pruned.method.budget != "channels":
        share = f"{share}-{pruned.method.budget}"
    name = settings.folder(
        store.folder, public_model(sparse), spec_name(pruned.spec), share
    )
    return local_path(name).absolute()


def _known_export(
    settings: ExportSettings, store: Store, folder: Path, dense_hash: str
) -> Export | None:
    """An intact earlier export of the same request in this folder; None without one."""
    known = store.get(Export, settings.key())
    if known is None:
        return None
    # A file that is gone, as it may be by now, says nothing against the export that was made of it.
    is_same_dense = known.dense_gguf_hash == dense_hash or "" in (
        known.dense_gguf_hash,
        dense_hash,
    )
    if is_same_dense and folder.is_dir() and file_hashes(folder) == known.files:
        return replace(known, folder=str(folder))
    return None


def _require_provable(settings: ExportSettings, loaded: LoadedModel) -> None:
    """Raise ExportError for a streamed model that would be rounded: it cannot be proven here."""
    exact = (loaded.dtype, "float32", "as-stored")
    if loaded.residency.streamed and settings.weights not in exact:
        raise ExportError(
            f"This model does not fit into memory, so weights rounded to {settings.weights} cannot be proven here.",
            f"Export it in {loaded.dtype}, or on a machine with more memory.",
        )


def _write_card(
    inside: Path,
    settings: ExportSettings,
    request: _Request,
    rebuilt: RebuiltModel,
    proof: Proof,
    written: WrittenFiles,
    render_card: RenderCard,
) -> None:
    sparse = request.sparse
    base_file = gguf_file(sparse.model)
    facts = CardFacts(
        settings=settings,
        run=request.run,
        dense=request.dense,
        sparse=sparse,
        proof=proof,
        written=written,
        licence=base_licence(rebuilt.source, sparse),
        source_type=rebuilt.source.source_type,
        source_bytes=base_file.stat().st_size if base_file else 0,
        shape=rebuilt.loaded.shape,
    )
    (inside / CARD).write_text(render_card(facts), encoding="utf-8")


def refuse_form(
    form: Form, pruned: Pruned, shape: ModelShape | None, forms: Iterable[Form]
) -> None:
    """Raise ExportError, naming the possible forms, where the model has no such form."""
    if problem := form_problem(form, pruned, shape):
        possible = ", ".join(
            other_form
            for other_form in forms
            if not form_problem(other_form, pruned, shape)
        )
        advice = (
            f"Possible: {possible}."
            if possible
            else "No form is possible: choose another method."
        )
        raise ExportError(f"This model cannot be written as {form}: {problem}.", advice)


def export_narrowed(
    folder: Path,
    form: Form,
    pruned: Pruned,
    source: Source,
    loaded: LoadedModel,
    record: Record,
    passages: Passages,
    on_step: OnStep,
) -> Proof:
    """Write and prove the folder of a model that is sparse itself, without card and recipe.

    Its weights keep their type.

    form: one that is possible. pruned: how it was made. source, loaded: the sparse model. record:
    its answers to the passages. Raises ExportError, and then the folder does not exist.
    """
    sparse = PrunedChannels.dense(loaded)
    widths = pruned.dense_widths
    if form != "masked":
        widths = loaded.structure.file_widths(pruned.widths)
    settings = ExportSettings(dense="-", sparse="-", form=form, weights=loaded.dtype)
    with _write_errors(folder), new_folder(folder) as inside:
        on_part = begin_parts(Step("write", 0, 1, message=folder.name), on_step)
        require_room = partial(require_export_room, folder)
        write_folder(
            inside,
            source,
            sparse,
            widths=widths,
            weights=loaded.dtype,
            require_room=require_room,
            on_part=on_part,
        )
        rebuilt = RebuiltModel(source=source, loaded=loaded, sparse=sparse)
        return prove_files(
            inside, settings, record, passages, rebuilt, ModelCache(), on_step
        )


def require_exportable(run: RunSettings, wanted: ExportSettings, store: Store) -> None:
    """Raise SparseDashError where the result of this run could not be written in this form.

    No weights are read, but where a GGUF file has to be made of a folder first.
    """
    source = locate_model(run.model, store, commit=run.model_commit)
    spec = run.points[0]
    require_form(wanted.form, spec, known_shape(store, source.identity))
    if wanted.form == "gguf":
        file, is_base = _dense_gguf(source, wanted, store)
        reader = require_full_gguf(file, is_base=is_base)
        if spec.is_healed or wanted.weights in MADE_BY_LLAMA_CPP:
            require_known(reader)


def prove_export(
    export: Export, folder: Path, store: Store, model_cache: ModelCache, on_step: OnStep
) -> Proof:
    """Proof of an earlier export, wherever its folder is now.

    Raises ExportError where a file is not what was written, or the proof fails.
    """
    hashes = file_hashes(folder)
    if changed := sorted(
        name
        for name in export.files.keys() | hashes.keys()
        if export.files.get(name) != hashes.get(name)
    ):
        raise ExportError(
            f"{folder} is not as exported: changed or new: {', '.join(changed[:5])}.",
            "Export it again.",
        )
    request = _Request.of(export.settings, store)
    rebuilt = rebuild_model(
        replace(request.sparse, model=export.model), store, on_step, model_cache
    )
    what = next(folder.glob("*.gguf"), folder)
    rebuilt, _ = _as_quantised(what, export.settings, rebuilt, store)
    return prove_files(
        what,
        export.settings,
        request.sparse,
        request.passages,
        rebuilt,
        model_cache,
        on_step,
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file by its name, except the card, which may be edited."""
    files = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    return {name: content_hash(file) for name, file in files.items() if name != CARD}


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Errors of writing files, as ExportError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        room = free_in_words(OSError(), folder.parent)
        raise ExportError(
            f"{folder} could not be written: {reason}. {room}".strip(),
            "Free some space, or name another folder.",
        ) from error


def _write(
    inside: Path,
    folder: Path,
    settings: ExportSettings,
    request: _Request,
    rebuilt: RebuiltModel,
    store: Store,
    on_part: OnPart,
) -> WrittenFiles:
    sparse = rebuilt.sparse
    weights = settings.weights
    require_room = partial(require_export_room, folder)
    assert sparse is not None
    if settings.form == "gguf":
        assert isinstance(sparse, PrunedChannels), (
            "form_problem has refused the other shape"
        )
        file, is_base = _dense_gguf(rebuilt.source, settings, store, on_part)
        new = inside / f"{folder.name}.gguf"
        written = write_quantised(
            new,
            file,
            sparse,
            weights,
            is_base=is_base,
            require_room=require_room,
            on_part=on_part,
        )
        copy_base_files(rebuilt.source, inside)
        return written
    widths = None
    if settings.form != "masked":
        widths = rebuilt.loaded.structure.file_widths(request.pruned.widths)
    return write_folder(
        inside,
        rebuilt.source,
        sparse,
        widths=widths,
        weights=weights,
        shard_mb=settings.shard_mb,
        require_room=require_room,
        on_part=on_part,
    )


def _as_quantised(
    file: Path, settings: ExportSettings, rebuilt: RebuiltModel, store: Store
) -> tuple[RebuiltModel, str]:
    """The model with the weights that llama.cpp's quantiser left, and their types in words.

    Unchanged where it has made none.
    """
    if settings.weights not in MADE_BY_LLAMA_CPP:
        return rebuilt, ""
    assert isinstance(rebuilt.sparse, PrunedChannels), (
        "form_problem has refused the other shape"
    )
    stored = read_back(
        file,
        _dense_gguf(rebuilt.source, settings, store)[0],
        rebuilt.sparse,
        settings.weights,
    )
    sparse = rebuilt.sparse.with_weights(stored.blocks, stored.others)
    return replace(
        rebuilt, sparse=sparse
    ), f"; {tensor_types(stored.tensors, stored.fell_back)}"


def _dense_gguf(
    source: Source, settings: ExportSettings, store: Store, on_part: OnPart = ignore
) -> tuple[Path, bool]:
    """The dense model's GGUF file, made if none is named; and whether it has the run's weights."""
    if settings.dense_gguf:
        return local_path(settings.dense_gguf), False
    return dense_gguf_file(source, store, on_part), True
