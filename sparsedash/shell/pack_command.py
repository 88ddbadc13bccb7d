"""`sparsedash runs`, `pack` and `unpack`: which runs there are, and one as a file for another machine."""

import argparse
from collections.abc import Callable
from contextlib import suppress

from sparsedash.reporting import wording
from sparsedash.schema.errors import JobError, NewerError, SettingsError, StoreError
from sparsedash.schema.records import Run
from sparsedash.shell.printed_table import aligned
from sparsedash.shell.terminal import one_line, path
from sparsedash.storage.data_dir import data_folder, in_full
from sparsedash.storage.local_paths import local_path
from sparsedash.storage.run_files import MAX_BYTES, SUFFIX, keep_run, read_run_file, run_file
from sparsedash.storage.store import WORK_PATIENCE_S, Store
from sparsedash.storage.user_data import UserData
from sparsedash.storage.whole_file import writable_file, write_whole

_FEWEST_DIGITS = 6
_DIGITS_SHOWN = 16


def name_key(run: Run) -> str:
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
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)

    def work() -> int:
        named = UserData(store).name_of
        rows = [
            [
                run.key[:_DIGITS_SHOWN],
                wording.moment(run.started_at),
                "done" if run.finished else "not finished",
                one_line(f"{wording.title_of(run, named(run.key))} · {wording.methods(run.settings)}"),
            ]
            for run in stored_runs(store)
        ]
        print(*(aligned([["run", "started", "state", "about"], *rows]) if rows else ["No runs."]), sep="\n")
        return 0

    return work


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where its file goes."""
    parser.add_argument("run", metavar="RUN", help="its key, or the beginning of it, as `runs` lists it")
    parser.add_argument("file", type=path, metavar="FILE", help=f"the file to write, {SUFFIX} at its end")
    ask_for_data_folder(parser)


def prepare_pack(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the run is found and the file can be written. Raises SparseDashError."""
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    run = _named(arguments.run, store)
    file = writable_file(arguments.file, "FILE")

    def work() -> int:
        packed = run_file(run, store)
        write_whole(file, packed)
        print(f"{wording.title_of(run)}: {wording.size(len(packed))} in {file}")
        return 0

    return work


def add_unpack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, and the data folder that it goes to."""
    parser.add_argument("file", type=path, metavar="FILE", help="what `sparsedash pack` has written")
    ask_for_data_folder(parser)


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
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)

    def work() -> int:
        run = keep_run(found, store)
        print(f"{wording.title_of(run)}: /?run={run.key}")
        return 0

    return work


def ask_for_data_folder(parser: argparse.ArgumentParser) -> None:
    """Where the runs are."""
    kept = "where results are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path, default=data_folder(), metavar="DIR", help=kept)


def _named(beginning: str, store: Store) -> Run:
    keys = [key for key in store.keys(Run) if key.startswith(beginning)]
    if len(beginning) < _FEWEST_DIGITS or len(keys) != 1:
        known = "`sparsedash runs` lists them; no run" if not keys else f"{len(keys)} runs"
        allowed = f"the key of one run, {_FEWEST_DIGITS} digits of it at least; {known} in {store.folder} begins so"
        raise SettingsError("RUN", beginning, allowed)
    run = store.get(Run, keys[0])
    if run is None or not run.finished:
        raise JobError("This run has not finished.", "Wait until it has, or start it again.")
    return run
