"""`sparsedash export`, `verify`, `runs`, `pack`, `unpack` and `judge`: models, finished runs and
answers as files.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from sparsedash.catalog.families import require_form
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import proof_words
from sparsedash.reporting.task_words import idle_limits, judge_document, task_rows
from sparsedash.reporting.verdicts import tolerance_words
from sparsedash.schema.errors import JobError, SettingsError
from sparsedash.schema.export_settings import Export, ExportSettings, possible_weights
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.hub_revisions import pinned
from sparsedash.service.model_lookup import gguf_file_problem
from sparsedash.service.stored_results import ResultCache
from sparsedash.shell.flags import open_store, open_store_for, run_from_flags, tolerance_from_flags
from sparsedash.shell.terminal import (
    EXIT_BEYOND,
    ProgressBar,
    Work,
    align_columns,
    one_line,
    print_warnings,
    result_writer,
)
from sparsedash.stats.task_pairs import pair_tasks
from sparsedash.stats.task_verdicts import judge_tasks
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.local_machine import local_path, path_kind, writable_file, write_atomically
from sparsedash.storage.model_folders import export_key_of, require_new
from sparsedash.storage.run_files import MAX_BYTES, keep_run, read_run_file, run_file
from sparsedash.storage.sample_files import read_answers
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData

_FEWEST_DIGITS = 6
_DIGITS_SHOWN = 16


def export_command(arguments: argparse.Namespace) -> Work:
    """Write the files of one sparse model, and prove that they load."""
    settings = run_from_flags(arguments)
    if settings.n_sparse != 1:
        said = f"An export is of one sparse model, not {settings.n_sparse}."
        raise SettingsError(
            "sparse models", said=said, advice="Name one --method and one --sparsity."
        )
    form, given = arguments.form, arguments.dense_gguf
    # A run in bfloat16 has no such GGUF file; float32 holds the same numbers.
    usual = settings.dtype if settings.dtype in possible_weights(form) else "float32"
    to, dense = (
        "" if path is None else str(local_path(str(path)).absolute())
        for path in (arguments.to, given)
    )
    if to:
        require_new(Path(to))
    weights, shard_mb = arguments.weights or usual, arguments.shard_mb
    files = {"form": form, "weights": weights, "shard_mb": shard_mb, "to": to, "dense_gguf": dense}
    request = ExportSettings(dense="", sparse="", **files)
    if dense and form != "gguf":
        raise SettingsError(
            "--dense-gguf",
            str(given),
            f"nothing with --form {form}: it is what a GGUF file is made of",
        )
    if dense and (problem := gguf_file_problem(Path(dense))):
        raise SettingsError("--dense-gguf", str(given), "a GGUF file of the dense model", problem)
    require_form(form, *settings.points[0])
    ((_, made),) = settings.points
    if made not in settings.sparsities_permille:
        print_warnings(
            [
                f"The pattern of {arguments.method} decides the sparsity: {wording.sparsity_percent(made)}."
            ]
        )
    store = open_store_for(settings, arguments)
    yield
    export = complete_export(settings, request, store, arguments.quiet)
    print(export.folder)
    print(f"{export.layout}; {wording.size(export.n_bytes)} in {export.settings.weights}")
    print(proof_words(export.proof))
    return 0


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
            "--data-dir", str(store.folder), "the data folder that this was exported from"
        )
    record = store.get(Record, export.settings.sparse)
    if record is None or record.pruned is None:
        raise JobError("The run of this sparse model was deleted.", "Run it again, then verify.")
    run = RunSettings(
        methods=(record.pruned.method,), sparsities_permille=(record.sparsity_permille,)
    )
    yield
    with ProgressBar(run, arguments.quiet) as bar:
        from sparsedash.engine.export.export import prove_export
        from sparsedash.engine.models.loading import ModelCache

        proof = prove_export(
            export, folder, store, ModelCache(), lambda step: bar(replace(step, point=0))
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
        about = f"{wording.stored_run_title(run, name_of(run.key))} · {wording.method_titles(run.settings)}"
        state = "done" if run.finished else "not finished"
        rows.append([run.key[:_DIGITS_SHOWN], wording.moment(run.started_at), state, about])
    print(*(align_columns(rows) if rows[1:] else ["No runs."]), sep="\n")
    return 0


def pack_command(arguments: argparse.Namespace) -> Work:
    """Write a finished run into one file, for another machine."""
    store = open_store(arguments, new=False)
    run = _finished_run(arguments.run, store)
    file = writable_file(arguments.new, "FILE")
    yield
    packed = run_file(run, store)
    write_atomically(file, packed)
    print(one_line(f"{wording.stored_run_title(run)}: {wording.size(len(packed))} in {file}"))
    return 0


def _finished_run(beginning: str, store: Store) -> Run:
    keys = [key for key in store.keys(Run) if key.startswith(beginning)]
    if len(beginning) < _FEWEST_DIGITS or len(keys) != 1:
        found = f"{len(keys) or 'No'} keys of runs in {store.folder} begin so."
        allowed = f"the key of one run, {_FEWEST_DIGITS} digits of it at least"
        raise SettingsError("RUN", beginning, allowed, f"{found} List them with `sparsedash runs`.")
    run = store.get(Run, keys[0])
    if run is None or not run.finished:
        raise JobError("This run has not finished.", "Wait for it, or start it again.")
    return run


def unpack_command(arguments: argparse.Namespace) -> Work:
    """Add the run of a packed file to the results here."""
    file = local_path(str(arguments.packed)).absolute()
    if path_kind(file) != "file" or not os.access(file, os.R_OK):
        raise SettingsError("FILE", str(file), "a readable file written by `sparsedash pack`")
    with file.open("rb") as stream:
        content = read_run_file(stream.read(MAX_BYTES + 1))
    store = open_store(arguments)
    yield
    run = keep_run(content, store)
    print(one_line(f"{wording.stored_run_title(run)}: /?run={run.key}"))
    return 0


def judge_command(arguments: argparse.Namespace) -> Work:
    """Judge a model against dense by answers in files of lm-evaluation-harness or lighteval."""
    tolerance = tolerance_from_flags(arguments)
    write = result_writer(arguments)
    dense, other = (local_path(str(path)).absolute() for path in (arguments.dense, arguments.other))
    yield
    pairs, alone = pair_tasks(read_answers(dense), read_answers(other))
    print_warnings(alone)
    results = judge_tasks(pairs, tolerance)
    print_warnings(idle_limits(results, tolerance))
    document = judge_document(_title(other, dense), results, tolerance)
    table = align_columns(task_rows(results), numbers=True)
    said = [one_line(document[part]) for part in ("sentence", "remarks") if document[part]]
    write([*table, "", *said, f"Limits: {tolerance_words(tolerance)}."], document)
    return EXIT_BEYOND if arguments.fail_beyond and document["verdict"] == "beyond" else 0


def _title(path: Path, beside: Path) -> str:
    """The name of a file or folder, with its parent's where the other has the same."""
    name, other = (each.stem if path_kind(each) == "file" else each.name for each in (path, beside))
    return name if name != other else f"{path.parent.name}/{name}"
