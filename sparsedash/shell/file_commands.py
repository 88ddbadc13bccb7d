"""`sparsedash export`, `verify`, `runs`, `pack` and `unpack`: sparse models and finished runs as files."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sparsedash.catalog.families import require_form
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import proof_words
from sparsedash.schema.errors import JobError, NewerError, SettingsError, StoreError
from sparsedash.schema.export_settings import Export, ExportSettings, Form, Weights, possible_weights
from sparsedash.schema.plain_values import require_one_of
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.model_lookup import gguf_file_problem
from sparsedash.shell.flags import add_run_flags, open_store, run_from_flags
from sparsedash.shell.terminal import (
    ProgressBar,
    add_quiet_flag,
    align_columns,
    one_line,
    path_argument,
    print_warnings,
)
from sparsedash.storage.local_machine import (
    absolute_data_folder,
    data_folder,
    local_path,
    writable_file,
    write_atomically,
)
from sparsedash.storage.model_folders import export_key_of
from sparsedash.storage.run_files import MAX_BYTES, SUFFIX, keep_run, read_run_file, run_file
from sparsedash.storage.store import WORK_PATIENCE_S, Store
from sparsedash.storage.users import UserData


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, in which form, in which numbers, and where to."""
    add_run_flags(parser)
    forms = f"{', '.join(get_args(Form))} (%(default)s)"
    parser.add_argument("--form", default="padded", metavar="FORM", help=forms)
    weights = f"{', '.join(get_args(Weights))} (as --dtype)"
    parser.add_argument("--weights", metavar="TYPE", help=weights)
    shards = "largest file of weights, in millions of bytes (%(default)s)"
    parser.add_argument("--shard-mb", type=int, default=5_000, metavar="N", help=shards)
    dense = "a GGUF file of the dense model with full weights, for --form gguf where the model is none"
    parser.add_argument("--dense-gguf", type=path_argument, metavar="FILE", help=dense)
    to = "the folder to make; it must not exist (one in the data folder)"
    parser.add_argument("--to", type=path_argument, metavar="DIR", help=to)
    add_quiet_flag(parser)


def prepare_export(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = run_from_flags(arguments)
    if settings.n_sparse != 1:
        raise SettingsError("sparse models", settings.n_sparse, "one method and one sparsity")
    form = arguments.form
    require_one_of("form", form, Form)
    # A run in bfloat16 has no such GGUF file; float32 holds the same numbers.
    usual = settings.dtype if settings.dtype in possible_weights(form) else "float32"
    weights = arguments.weights or usual
    to = "" if arguments.to is None else str(_new_folder(arguments.to))
    dense = "" if arguments.dense_gguf is None else str(local_path(str(arguments.dense_gguf)).absolute())
    asked = {"form": form, "weights": weights, "shard_mb": arguments.shard_mb, "to": to, "dense_gguf": dense}
    ExportSettings(dense="", sparse="", **asked)
    if dense and (problem := gguf_file_problem(Path(dense))):
        raise SettingsError("--dense-gguf", str(arguments.dense_gguf), "a GGUF file of the dense model", problem)
    require_form(form, *settings.points[0])
    store = open_store(arguments, settings)

    def work() -> int:
        found = complete_export(settings, asked, store, arguments.quiet)
        print(found.folder)
        print(f"{found.layout}; {wording.size(found.n_bytes)} in {found.settings.weights}")
        print(proof_words(found.proof))
        return 0

    return work


def complete_export(settings: RunSettings, asked: dict[str, object], store: Store, quiet: bool = False) -> Export:
    """The export, after its run as far as that is not stored."""
    with ProgressBar(settings, quiet) as bar:
        bar(Step("start", 0, 0))
        from sparsedash.engine.export.export import export_model, require_exportable
        from sparsedash.engine.models.loading import ModelShelf
        from sparsedash.engine.run import pipeline

        # Before the run, which may take hours.
        require_exportable(settings, ExportSettings(dense="", sparse="", **asked), store)  # type: ignore[arg-type]
        shelf = ModelShelf()
        run = pipeline.run(settings, store, bar, shelf)
        print_warnings(run.warnings)
        request = ExportSettings(run=run.key, dense=run.dense, sparse=run.sparse[0], **asked)  # type: ignore[arg-type]
        # What is made again is the run's one sparse model.
        return export_model(request, store, shelf, lambda step: bar(replace(step, point=0)))


def _new_folder(folder: Path) -> Path:
    found = local_path(str(folder)).absolute()
    if found.exists() or found.is_symlink():
        raise SettingsError("--to", str(folder), "a folder that does not exist yet")
    return found


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder, and the data folder that knows what it is to be."""
    parser.add_argument("folder", type=path_argument, metavar="DIR", help="a folder that `sparsedash export` has made")
    kept = "where the results that it was made from are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path_argument, default=data_folder(), metavar="DIR", help=kept)
    add_quiet_flag(parser)


def prepare_verify(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the folder is one that this data folder knows. Raises SparseDashError."""
    folder = local_path(str(arguments.folder)).absolute()
    key = export_key_of(folder)
    store = Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    found = store.get(Export, key)
    record = None if found is None else store.get(Record, found.settings.sparse)
    if found is None or record is None or record.pruned is None:
        raise SettingsError("--data-dir", str(store.folder), "the data folder that this was exported from")

    made = RunSettings(methods=(record.pruned.method,), sparsities_permille=(record.sparsity_permille,))

    def work() -> int:
        with ProgressBar(made, arguments.quiet) as bar:
            bar(Step("start", 0, 0))
            from sparsedash.engine.export.export import prove_export
            from sparsedash.engine.models.loading import ModelShelf

            proof = prove_export(found, folder, store, ModelShelf(), lambda step: bar(replace(step, point=0)))
        store.put(found.key, replace(found, proof=proof))
        print(proof_words(proof))
        return 0

    return work


_FEWEST_DIGITS = 6
_DIGITS_SHOWN = 16


def short_run_key(run: Run) -> str:
    """ "Run 3f9c21d07a44e1b2": as much of its key as names it to `pack`."""
    return f"Run {run.key[:_DIGITS_SHOWN]}"


def stored_runs(store: Store) -> list[Run]:
    """Every run that is stored, newest first; none of another version's form."""
    runs: list[Run] = []
    for key in store.keys(Run):
        with suppress(NewerError):
            runs += filter(None, [store.get(Run, key)])
    return sorted(runs, key=lambda run: run.started_at, reverse=True)


def prepare_runs(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the data folder can be read. Raises SparseDashError."""
    store = Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)

    def work() -> int:
        named = UserData(store).name_of
        rows = [
            [
                run.key[:_DIGITS_SHOWN],
                wording.moment(run.started_at),
                "done" if run.finished else "not finished",
                one_line(f"{wording.stored_run_title(run, named(run.key))} · {wording.method_titles(run.settings)}"),
            ]
            for run in stored_runs(store)
        ]
        print(*(align_columns([["run", "started", "state", "about"], *rows]) if rows else ["No runs."]), sep="\n")
        return 0

    return work


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where its file goes."""
    parser.add_argument("run", metavar="RUN", help="its key, or the beginning of it, as `runs` lists it")
    parser.add_argument("file", type=path_argument, metavar="FILE", help=f"the file to write, {SUFFIX} at its end")
    add_data_folder_flag(parser)


def prepare_pack(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the run is found and the file can be written. Raises SparseDashError."""
    store = Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    run = _finished_run(arguments.run, store)
    file = writable_file(arguments.file, "FILE")

    def work() -> int:
        packed = run_file(run, store)
        write_atomically(file, packed)
        print(f"{wording.stored_run_title(run)}: {wording.size(len(packed))} in {file}")
        return 0

    return work


def add_unpack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, and the data folder that it goes to."""
    parser.add_argument("file", type=path_argument, metavar="FILE", help="what `sparsedash pack` has written")
    add_data_folder_flag(parser)


def prepare_unpack(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the file is a whole run. Raises SparseDashError."""
    file = local_path(str(arguments.file)).absolute()
    if not file.is_file():
        raise SettingsError("FILE", str(file), "a file that `sparsedash pack` has written")
    try:
        with file.open("rb") as stream:
            found = read_run_file(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}.") from error
    store = Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)

    def work() -> int:
        run = keep_run(found, store)
        print(f"{wording.stored_run_title(run)}: /?run={run.key}")
        return 0

    return work


def add_data_folder_flag(parser: argparse.ArgumentParser) -> None:
    """Where the runs are."""
    kept = "where results are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path_argument, default=data_folder(), metavar="DIR", help=kept)


def _finished_run(beginning: str, store: Store) -> Run:
    keys = [key for key in store.keys(Run) if key.startswith(beginning)]
    if len(beginning) < _FEWEST_DIGITS or len(keys) != 1:
        known = "`sparsedash runs` lists them; no run" if not keys else f"{len(keys)} runs"
        allowed = f"the key of one run, {_FEWEST_DIGITS} digits of it at least; {known} in {store.folder} begins so"
        raise SettingsError("RUN", beginning, allowed)
    run = store.get(Run, keys[0])
    if run is None or not run.finished:
        raise JobError("This run has not finished.", "Wait until it has, or start it again.")
    return run
