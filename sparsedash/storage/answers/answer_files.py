"""Answers of one model or several, in files of any program that READERS has a row for."""

import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.question_records import QuestionSet, pool_parts
from sparsedash.storage.answers.answer_tables import is_table, read_tables
from sparsedash.storage.answers.harness_samples import (
    is_samples_file,
    read_samples,
    samples_folder,
)
from sparsedash.storage.answers.inspect_logs import is_log, read_logs
from sparsedash.storage.answers.lighteval_details import (
    details_folder,
    is_details_file,
    read_details,
)
from sparsedash.storage.answers.opencompass_results import (
    is_opencompass_results,
    read_opencompass_results,
    results_folder,
)
from sparsedash.storage.answers.parsed_answers import MAX_BYTES
from sparsedash.storage.answers.promptfoo_results import is_results_file, read_results
from sparsedash.storage.local_machine import path_kind

_MAX_FILES = 2_000
_MAX_NAMED = 5
_UNNAMED_TASK = "questions"
SUFFIXES = (".jsonl", ".parquet", ".eval", ".json", ".csv")
"""Of files of answers."""


class Reader(NamedTuple):
    """A program whose files can be read.

    files: their names, in words. is_one: whether a file is one of them. model_folder: the folder
    named after the model, where files do not name it.
    """

    program: str
    files: str
    is_one: Callable[[Path], bool]
    read: Callable[[Sequence[Path]], Iterable[QuestionSet]]
    model_folder: Callable[[Path], Path] | None = None


def _read_plain_tables(files: Sequence[Path]) -> Iterable[QuestionSet]:
    return read_tables(files, {})


TABLES = Reader("tables", "*.csv or *.jsonl", is_table, _read_plain_tables)
READERS = (
    Reader(
        "lm-evaluation-harness",
        "samples_*.jsonl",
        is_samples_file,
        read_samples,
        samples_folder,
    ),
    Reader(
        "lighteval", "details_*.parquet", is_details_file, read_details, details_folder
    ),
    Reader("Inspect", "logs in .eval or .json", is_log, read_logs),
    Reader("promptfoo", "results in .json", is_results_file, read_results),
    Reader(
        "OpenCompass",
        "results with details in .json",
        is_opencompass_results,
        read_opencompass_results,
        results_folder,
    ),
    TABLES,
)
"""In this order: a table is what no program before it has written."""


def read_answers(
    path: Path, columns: Mapping[str, str] | None = None
) -> list[QuestionSet]:
    """The answers of one model, from a file or all such files below a folder, one set a task.

    columns: of a table, by role: see `read_tables`. Raises CorpusError with the file, and the entry,
    that cannot be read, and where there are several models.
    """
    models = read_models(path, columns)
    if len(models) > 1:
        raise _several_models(path, models)
    return next(iter(models.values()))


def read_models(
    path: Path, columns: Mapping[str, str] | None = None
) -> dict[str, list[QuestionSet]]:
    """The answers by model, as `read_answers` gives them for one."""
    reader, files = _files(path)
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise CorpusError(
            f"{path.name} holds more than {MAX_BYTES // 10**9} GB of answers.",
            "Judge fewer tasks.",
        )
    if columns and reader is not TABLES:
        raise CorpusError(
            f"{path.name} was written by {reader.program}.",
            "Columns are named for plain tables.",
        )
    sets = defaultdict[str, list[QuestionSet]](list)
    for answers in read_tables(files, columns) if columns else reader.read(files):
        if len(files) == 1 and answers.task == files[0].stem:
            # A file's own name tells models apart rather than tasks.
            answers = replace(answers, task=_UNNAMED_TASK)
        sets[answers.model].append(answers)
    return {model: pool_parts(parts) for model, parts in sets.items()}


def unpack_answers(archive: Path, folder: Path) -> None:
    """Unpack a zip into a new folder. Raises CorpusError where it cannot be read or is too much."""
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            if len(entries) > _MAX_FILES:
                raise CorpusError(
                    f"{archive.name} holds more than {_MAX_FILES:,} files.",
                    "Judge fewer tasks.",
                )
            # Before anything is written: a small zip can hold more than the disk.
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise CorpusError(
                    f"{archive.name} holds more than {MAX_BYTES // 10**9} GB.",
                    "Judge fewer tasks.",
                )
            for entry in entries:
                parts = PurePosixPath(entry.filename).parts
                if not parts or PurePosixPath(parts[-1]).suffix not in SUFFIXES:
                    continue
                if ".." in parts or parts[0] == "/":
                    raise CorpusError(f"{archive.name} names files outside of it.")
                file = folder.joinpath(*parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, file.open("wb") as target:
                    # zipfile ends at the size that was added up.
                    shutil.copyfileobj(source, target)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:
        raise CorpusError(
            f"{archive.name} could not be unpacked: {first_line(error)}."
        ) from error


def _files(path: Path) -> tuple[Reader, list[Path]]:
    """The program that wrote the file, or those in a folder, and the files."""
    kind = path_kind(path)
    if kind == "nothing":
        raise CorpusError(
            f"{path} does not exist.", "Name a file of answers or a folder of such."
        )
    by_program = defaultdict[Reader, list[Path]](list)
    n_files = 0
    for file in [path] if kind == "file" else sorted(path.rglob("*")):
        if file.suffix not in SUFFIXES or not file.is_file():
            continue
        n_files += 1
        if n_files > _MAX_FILES:
            break
        reader = next((row for row in READERS if row.is_one(file)), None)
        if reader is not None:
            by_program[reader].append(file)
    if len(by_program) > 1:
        # Beside logs lie tables of other things.
        by_program.pop(TABLES, None)
    if len(by_program) > 1:
        programs = ", ".join(reader.program for reader in by_program)
        raise CorpusError(
            f"{path} holds answers of several programs: {programs}.",
            "Name the folder of one.",
        )
    if not by_program or n_files > _MAX_FILES:
        number = f"more than {_MAX_FILES:,}" if by_program else "no"
        known = "; ".join(f"{reader.files} ({reader.program})" for reader in READERS)
        raise CorpusError(
            f"{path} holds {number} files of answers.", f"They are {known}."
        )
    ((reader, files),) = by_program.items()
    if reader.model_folder is not None:
        folders = sorted(set(map(reader.model_folder, files)))
        if len(folders) > 1:
            raise _several_models(
                path, [str(model).removeprefix(f"{path}/") for model in folders]
            )
    return reader, files


def _several_models(path: Path, models: Iterable[str]) -> CorpusError:
    names = list(models)
    shown = ", ".join(names[:_MAX_NAMED])
    return CorpusError(
        f"{path} holds answers of several models: {shown}.", "Name the folder of one."
    )
