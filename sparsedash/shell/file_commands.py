"""`sparsedash export`, `verify`, `runs`, `pack` and `unpack`: commands about files."""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from sparsedash.catalog.export_forms import require_form
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import proof_words
from sparsedash.schema.errors import JobError, SettingsError
from sparsedash.schema.export_settings import Export, ExportSettings, possible_weights
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.hub_revisions import pinned
from sparsedash.service.model_lookup import gguf_file_problem
from sparsedash.service.stored_results import ResultCache
from sparsedash.shell.flags import (
    named_flags,
    open_store,
    open_store_for,
    run_from_flags,
)
from sparsedash.shell.terminal import (
    ProgressBar,
    Work,
    align_columns,
    one_line,
    print_warnings,
)
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.local_machine import (
    local_path,
    path_kind,
    writable_file,
    write_atomically,
)
from sparsedash.storage.model_folders import export_key_of, require_new
from sparsedash.storage.run_files import MAX_BYTES, keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData

_MIN_DIGITS = 6
_DIGITS_SHOWN = 16


def export_command(arguments: argparse.Namespace) -> Work:
    """Write the files of one sparse model, and prove that they load."""
    settings = run_from_flags(arguments)
    if settings.n_sparse != 1:
        raise SettingsError(
            "sparse models",
            message=f"An export is of one sparse model, not {settings.n_sparse}.",
            advice="Name one --method and one --sparsity.",
        )
    to = _absolute(arguments.to)
    if to:
        require_new(Path(to))
    form = arguments.form
    is_named = "--form" in named_flags(arguments)
    if is_named:
        require_form(form, settings.points[0])
    settings, store = open_store_for(settings, arguments)
    (spec,) = settings.points
    if spec.pruning.prunes_experts and not is_named:
        form = "uniform"
    # A run in bfloat16 has no such GGUF file; float32 holds the same numbers.
    usual = settings.dtype if settings.dtype in possible_weights(form) else "float32"
    request = ExportSettings(
        dense="",
        sparse="",
        form=form,
        weights=arguments.weights or usual,
        shard_mb=arguments.shard_mb,
        to=to,
        dense_gguf=_absolute(arguments.dense_gguf),
    )
    if request.dense_gguf:
        _require_gguf(request)
    require_form(form, spec)
    if spec.permille not in settings.sparsities_permille:
        percent = wording.sparsity_percent(spec.permille)
        print_warnings(
            [f"The pattern of {arguments.method} decides the sparsity: {percent}."]
        )
    yield
    export = complete_export(settings, request, store, arguments.quiet)
    print(export.folder)
    print(
        f"{export.layout}; {wording.size(export.n_bytes)} in {export.settings.weights}"
    )
    print(proof_words(export.proof))
    return 0


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(local_path(str(path)).absolute())


def _require_gguf(request: ExportSettings) -> None:
    file = request.dense_gguf
    if request.form != "gguf":
        allowed = (
            f"nothing with --form {request.form}: it is what a GGUF file is made of"
        )
        raise SettingsError("--dense-gguf", file, allowed)
    if problem := gguf_file_problem(Path(file)):
        raise SettingsError(
            "--dense-gguf", file, "a GGUF file of the dense model", problem
        )


def complete_export(
    settings: RunSettings, request: ExportSettings, store: Store, quiet: bool = False
) -> Export:
    """The export of the one sparse model of a run. request: without the keys of its records."""
    settings = pinned(settings, store, HubReach(), with_token=True)
    with ProgressBar(settings, quiet) as bar:
        from sparsedash.engine.export.export import export_model, require_exportable
        from sparsedash.engine.models.loading import ModelCache
        from sparsedash.engine.run import pipeline
        from sparsedash.reporting.model_card import stored_card

        # Before the run, which may take hours.
        require_exportable(settings, request, store)
        model_cache = ModelCache()
        run = pipeline.run(settings, store, bar, model_cache)
        print_warnings(run.warnings)
        request = replace(request, run=run.key, dense=run.dense, sparse=run.sparse[0])
        card = partial(stored_card, store)
        return export_model(
            request, store, model_cache, lambda step: bar(replace(step, point=0)), card
        )


def verify_command(arguments: argparse.Namespace) -> Work:
    """Prove again that an exported folder loads and is unchanged."""
    folder = local_path(arguments.export).absolute()
    key = export_key_of(folder)
    store = open_store(arguments, new=False)
    export = store.get(Export, key)
    if export is None:
        raise SettingsError(
            "--data-dir",
            str(store.folder),
            "the data folder that this was exported from",
        )
    record = store.get(Record, export.settings.sparse)
    if record is None or record.pruned is None:
        raise JobError(
            "The run of this sparse model was deleted.", "Run it again, then verify."
        )
    run = RunSettings(
        methods=(record.pruned.method,), sparsities_permille=(record.sparsity_permille,)
    )
    yield
    with ProgressBar(run, arguments.quiet) as bar:
        from sparsedash.engine.export.export import prove_export
        from sparsedash.engine.models.loading import ModelCache

        proof = prove_export(
            export,
            folder,
            store,
            ModelCache(),
            lambda step: bar(replace(step, point=0)),
        )
    store.put(export.key, replace(export, proof=proof))
    print(proof_words(proof))
    return 0


def short_run_key(run: Run) -> str:
    """ "Run 3f9c21d07a44e1b2": the beginning of its key, by which `pack` finds it."""
    return f"Run {run.key[:_DIGITS_SHOWN]}"


def runs_command(arguments: argparse.Namespace) -> Work:
    """List the stored runs with their keys."""
    folder = local_path(arguments.data_dir).absolute()
    if not folder.is_dir():
        yield
        print(f"No runs: there is no folder {one_line(str(folder))}.")
        return 0
    store = open_store(arguments)
    yield
    name_of = UserData(store).name_of
    rows = [["run", "started", "state", "about"]]
    for run in ResultCache(store).runs():
        about = wording.stored_run_title(run, name_of(run.key))
        state = "done" if run.finished else "not finished"
        rows.append(
            [run.key[:_DIGITS_SHOWN], wording.moment(run.started_at), state, about]
        )
    print(*(align_columns(rows) if len(rows) > 1 else ["No runs."]), sep="\n")
    return 0


def pack_command(arguments: argparse.Namespace) -> Work:
    """Write a finished run into one file, for another machine."""
    store = open_store(arguments, new=False)
    run = _finished_run(arguments.run, store)
    file = writable_file(arguments.new, "FILE")
    yield
    packed = run_file(run, store)
    write_atomically(file, packed)
    print(
        one_line(
            f"{wording.stored_run_title(run)}: {wording.size(len(packed))} in {file}"
        )
    )
    return 0


def _finished_run(beginning: str, store: Store) -> Run:
    keys = [key for key in store.keys(Run) if key.startswith(beginning)]
    if len(beginning) < _MIN_DIGITS or len(keys) != 1:
        allowed = f"the key of one run, {_MIN_DIGITS} digits of it at least"
        advice = f"{len(keys)} runs in {store.folder} match. List them with `sparsedash runs`."
        raise SettingsError("RUN", beginning, allowed, advice)
    run = store.get(Run, keys[0])
    if run is None or not run.finished:
        raise JobError("This run has not finished.", "Wait for it, or start it again.")
    return run


def unpack_command(arguments: argparse.Namespace) -> Work:
    """Add the run of a packed file to the results here."""
    file = local_path(str(arguments.packed)).absolute()
    if path_kind(file) != "file" or not os.access(file, os.R_OK):
        raise SettingsError(
            "FILE", str(file), "a readable file written by `sparsedash pack`"
        )
    with file.open("rb") as stream:
        content = read_run_file(stream.read(MAX_BYTES + 1))
    store = open_store(arguments)
    yield
    run = keep_run(content, store)
    print(one_line(f"{wording.stored_run_title(run)}: /?run={run.key}"))
    return 0
