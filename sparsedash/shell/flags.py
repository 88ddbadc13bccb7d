"""Flags of the commands, most of them made from the field table, and the settings they give."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from sparsedash.catalog import presets
from sparsedash.catalog.choices import OFFERED, CatalogEntry
from sparsedash.catalog.usual_settings import (
    methods_meant,
    refit_tokens,
    usual_method,
    usual_samples,
)
from sparsedash.jobs.cluster_parts import SCHEDULER
from sparsedash.reporting.wording import refit_words
from sparsedash.schema.errors import SettingsError, SparseDashError
from sparsedash.schema.export_settings import ExportSettings, Weights
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import MethodSettings, with_budget
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
    percents_text,
)
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.model_lookup import inspect_config, named_model
from sparsedash.service.request_checks import is_hub_id
from sparsedash.service.run_checks import run_problems
from sparsedash.shell.terminal import EXIT_BEYOND, STDOUT
from sparsedash.stats.answer_slices import LENGTH
from sparsedash.storage.answers.answer_tables import COLUMNS
from sparsedash.storage.local_machine import data_folder, local_path, path_kind
from sparsedash.storage.model_folders import model_config
from sparsedash.storage.run_files import SUFFIX
from sparsedash.storage.store import WORK_LOCK_TIMEOUT_S, Store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", RunSettings, FindSettings)
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kKMG]?B)")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_LINES = {"tasks": "NAMES"}
_METAVARS = {
    "choice": "NAME",
    "number": "X",
    "reference": "REF",
    "sparsities": "PERCENTS",
    "whole": "N",
}


def _task_limit(text: str) -> tuple[str, float]:
    """A task and its points."""
    task, _, points = text.rpartition("=")
    try:
        return Tolerance(tasks=((task.removeprefix("builtin:"), float(points)),)).tasks[
            0
        ]
    except (ValueError, SettingsError):
        allowed = "a task and its points, more than 0 and up to 100, such as piqa=3"
        raise argparse.ArgumentTypeError(
            f"{text!r} is not possible. Allowed: {allowed}."
        ) from None


def _columns(text: str) -> dict[str, str]:
    """Names of columns by their role."""
    columns = dict[str, str]()
    for part in text.split(","):
        role, _, name = part.partition("=")
        if role not in COLUMNS or not name:
            allowed = (
                f"names of columns, such as id=nr,right=ok, of {', '.join(COLUMNS)}"
            )
            raise argparse.ArgumentTypeError(
                f"{part!r} is not possible. Allowed: {allowed}."
            )
        columns[role] = name
    return columns


def _sizes(text: str) -> list[int]:
    """Bytes of each model's file, from a size or from the file itself."""
    sizes = []
    for part in _split(text):
        match = _SIZE.fullmatch(part)
        if match is not None:
            sizes.append(round(float(match["number"]) * _UNITS[match["unit"].upper()]))
        elif Path(part).is_file():
            sizes.append(Path(part).stat().st_size)
        else:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not possible. Allowed: a size, such as 4.1GB or 380MB, or a file."
            )
    return sizes


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def path_argument(text: str) -> Path:
    """The path of an argument."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is needed")
    return Path(text)


def _file_or_stdout(text: str) -> Path | str:
    return STDOUT if text == STDOUT else path_argument(text)


def _names(entries: Iterable[CatalogEntry | presets.Method]) -> str:
    return ", ".join(entry.name for entry in entries)


def _flags_of(table: "type[DataclassInstance]") -> dict[str, FieldRow]:
    return {row.flag: row for row in field_rows(table).values() if row.flag}


_OF_METHODS = _flags_of(MethodSettings)
_OF_CALIBRATION = _flags_of(CalibrationSettings)
_OF_SEARCHES = _flags_of(FindSettings)
_OF_TOLERANCE = _flags_of(Tolerance)
_OF_RUNS = (
    _flags_of(RunSettings)
    | _OF_CALIBRATION
    | _OF_METHODS
    | _OF_SEARCHES
    | _flags_of(EvaluationSettings)
)
_SETTINGS = (
    _OF_RUNS | _OF_TOLERANCE | _flags_of(TimingSettings) | _flags_of(ExportSettings)
)

RUN_FLAGS = (*_OF_RUNS, "--method", "--data-dir")
SEARCH_FLAGS = tuple(
    flag for flag in RUN_FLAGS if flag not in ("--sparsity", "--stop-early")
)
TOLERANCE_FLAGS = tuple(_OF_TOLERANCE)


class _Noted(argparse.Action):
    """Keeps the value, and its flag among `named` of the arguments."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.named = (*named_flags(namespace), self.option_strings[0])


def named_flags(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The flags of settings that were named, in order; those of lists aside."""
    return getattr(arguments, "named", ())


_FILE = {"type": path_argument, "metavar": "FILE"}
_FOLDER = {"type": path_argument, "metavar": "DIR"}
_SWITCH = {"action": "store_true"}
_ONE_METHOD = {
    "action": _Noted,
    "default": presets.DEFAULT_METHOD,
    "metavar": "NAME",
    "choices": [method.name for method in presets.METHODS],
    "help": "one of %(choices)s (%(default)s; of a mixture experts)",
}
_OTHERS: dict[str, dict[str, Any]] = {
    "--method": {
        "action": _Noted,
        "default": presets.DEFAULT_METHOD,
        "metavar": "NAMES",
        "help": f"one or several, with commas between, of {_names(presets.METHODS)} (%(default)s; of "
        "a mixture experts)",
    },
    "find --method": _ONE_METHOD
    | {"choices": [method.name for method in presets.METHODS if method.searchable]},
    "time --method": _ONE_METHOD,
    "export --method": _ONE_METHOD,
    "--within-task": {
        "type": _task_limit,
        "action": "append",
        "metavar": "TASK=X",
        "help": "accuracy on this task may fall by X points; may be given several times (as --within-points; of a "
        "built-in task 5)",
    },
    "--heal": {
        "action": _Noted,
        "type": float,
        "metavar": "MINUTES",
        "default": 0.0,
        "help": "also heal each model with fewer channels or layers for about so many minutes: the dense model "
        "teaches it (%(default)g: not)",
    },
    "--quantise": {
        "metavar": "TYPES",
        "default": "",
        "help": f"the dense model and every sparse one also quantised as llama.cpp does, with commas between: "
        f"{', '.join(get_args(Quantisation))}; widths become multiples of 256 where the type needs it (none)",
    },
    "--data-dir": _FOLDER | {"help": "data folder (%(default)s)"},
    "--json": {
        "type": _file_or_stdout,
        "metavar": "FILE",
        "help": f"write the whole result as JSON; {STDOUT}: standard output, with the table on standard error",
    },
    "--quiet": _SWITCH
    | {"help": "show no progress: only the result, warnings and errors"},
    "--fail-beyond": _SWITCH
    | {"help": f"exit with {EXIT_BEYOND} if a model is beyond the limits"},
    "--markdown": _SWITCH
    | {"help": "print Markdown, for a pull request or a job summary"},
    "judge --fail-unless-within": _SWITCH
    | {
        "help": f"exit with {EXIT_BEYOND} unless every model is within the limit on every task judged"
    },
    "--fail-unless-within": _SWITCH
    | {
        "help": f"exit with {EXIT_BEYOND} unless every sparse model is within the limits by every judged measure"
    },
    "--weights": {
        "metavar": "TYPE",
        "help": f"{', '.join(get_args(Weights))} (as --dtype; of a GGUF file never bfloat16; "
        "as-stored: whole experts are cut out of it)",
    },
    "--dense-gguf": _FILE
    | {
        "help": "a GGUF file of the dense model with full weights; for --form gguf of a model in safetensors"
    },
    "--to": _FOLDER
    | {"help": "folder to create; must not exist (one in the data folder)"},
    "export": _FOLDER | {"help": "a folder written by `sparsedash export`"},
    "run": {
        "metavar": "RUN",
        "help": "its key or the beginning of it, see `sparsedash runs`",
    },
    "new": _FILE | {"help": f"the file to write, {SUFFIX} at its end"},
    "packed": _FILE | {"help": "a file written by `sparsedash pack`"},
    "dense": {
        "type": path_argument,
        "metavar": "DENSE",
        "help": "its answers: a file, or a folder of files",
    },
    "others": {
        "type": path_argument,
        "metavar": "OTHER",
        "nargs": "*",
        "default": (),
        "help": "the answers of a model to be judged; none where one file holds those of all, dense first",
    },
    "--columns": {
        "type": _columns,
        "metavar": "ROLE=NAME,…",
        "help": f"columns of plain tables, of {', '.join(COLUMNS)} (by their usual names)",
    },
    "--slices": {
        "type": _split,
        "metavar": "FIELDS",
        "default": (),
        "help": f"show what was lost in each slice of these fields, with commas between, or {LENGTH} (those that "
        "differ from the rest of their task)",
    },
    "--size": {
        "type": _sizes,
        "metavar": "SIZE,…",
        "default": (),
        "help": "of llama.cpp's figures: how large each model's file is, in their order, such as 4.1GB, or that file",
    },
    "--cluster": {
        "metavar": "FIELD",
        "default": "",
        "help": "questions with the same value of this field count as a cluster (questions on one passage)",
    },
    "--questions": _FILE
    | {"help": "write every question with both answers and what became of it, as CSV"},
    "what": {
        "choices": ["check"],
        "help": f"check the scheduler in {SCHEDULER} and its machines",
    },
}
"""Flags that are no settings, and arguments; one command's own form of a flag comes after the
command's name.
"""


def add_flags(
    parser: argparse.ArgumentParser, command: str, flags: Iterable[str]
) -> None:
    """Add the flags and arguments of a command."""
    for flag in flags:
        if flag in _SETTINGS:
            _add_setting(parser, command, _SETTINGS[flag])
        else:
            options = _OTHERS.get(f"{command} {flag}") or _OTHERS[flag]
            if flag == "--data-dir":
                options = options | {"default": data_folder()}
            parser.add_argument(flag, **options)


def _add_setting(parser: argparse.ArgumentParser, command: str, row: FieldRow) -> None:
    about = row.flag_help or ". ".join(filter(None, [row.label, row.help]))
    if row.kind == "switch":
        parser.add_argument(row.flag, action=_Noted, nargs=0, default=False, help=about)
        return
    if row.kind == "choice":
        about = ". ".join(
            filter(None, [f"{row.label}: {', '.join(row.options)}", row.help])
        )
    if row.kind == "reference" and row.name != "model":
        about = f"{_names(OFFERED[row.title])} or file:PATH"
    if row.kind == "lines":
        parser.add_argument(
            row.flag,
            action="append",
            default=argparse.SUPPRESS,
            metavar=_LINES.get(row.name, "TEXT"),
            help=about,
        )
        return
    default = row.starts.get(command, row.default)
    if row.kind == "sparsities":
        default = percents_text(default)
    required = row.name == "model"
    parser.add_argument(
        row.flag,
        action=_Noted,
        type={"whole": int, "number": float}.get(row.kind, str),
        default=None if required else default,
        required=required,
        metavar=_METAVARS[row.kind],
        help=about if required or default is None else f"{about} (%(default)s)",
    )


def run_from_flags(arguments: argparse.Namespace) -> RunSettings:
    """The run that the flags describe. Raises SettingsError."""
    return RunSettings(
        **_request(arguments)
        | {"sparsities_permille": parse_percents(arguments.sparsity)},
        methods=_methods(_split(arguments.method), arguments),
        heal_steps=(arguments.heal_steps,),
    )


def quantised_from_flags(settings: R, arguments: argparse.Namespace) -> R:
    """The request with the quantised models that --quantise names. Raises SettingsError."""
    names = [name.lower() for name in _split(arguments.quantise)]
    types = get_args(Quantisation)
    for name in names:
        if name not in types:
            raise SettingsError(
                "--quantise", name, f"one or several of {', '.join(types)}"
            )
    return replace(settings, quantise=tuple(kind for kind in types if kind in names))


def search_from_flags(arguments: argparse.Namespace) -> FindSettings:
    """The search that the flags describe. Raises SettingsError."""
    (method,) = _methods([arguments.method], arguments)
    tolerance = tolerance_from_flags(arguments)
    return FindSettings(
        **_request(arguments),
        method=method,
        heal_steps=arguments.heal_steps,
        tolerance=tolerance,
    )


def tolerance_from_flags(arguments: argparse.Namespace) -> Tolerance:
    """The tolerance. Raises SettingsError."""
    return Tolerance(
        **_values(arguments, Tolerance),
        tasks=tuple(getattr(arguments, "within_task", None) or ()),
    )


def open_store(arguments: argparse.Namespace, *, new: bool = True) -> Store:
    """The store of --data-dir. new: whether it may be created. Raises SparseDashError."""
    folder = local_path(arguments.data_dir).absolute()
    if not new and path_kind(folder) != "folder":
        raise SettingsError("--data-dir", str(folder), "a data folder of SparseDash")
    return Store(folder, lock_timeout_s=WORK_LOCK_TIMEOUT_S)


def open_store_for(settings: R, arguments: argparse.Namespace) -> tuple[R, Store]:
    """The request with what its model needs where no flag says it, and the store, if it can start
    and uses all flags; else raises SparseDashError.
    """
    _require_used(planned_run(settings), arguments)
    store = open_store(arguments)
    inspect_config(settings.model, store)
    named = named_model(settings.model, store)
    if named is not None and named.shape is not None:
        settings = _as_recommended(settings, named.shape, arguments)
        _require_used(planned_run(settings), arguments)
    require_startable(settings, store)
    if is_hub_id(settings.model) and model_config(settings.model) is None:
        # Before the engine is loaded, which takes seconds.
        from sparsedash.engine.models.hub import require_reachable

        require_reachable(settings.model)
    return settings, store


def _as_recommended(settings: R, shape: ModelShape, arguments: argparse.Namespace) -> R:
    """The request by the recommended method of this model, on calibration text enough for it,
    unless flags say others; what is not as usual is printed.
    """
    named = named_flags(arguments)
    reason = "best, as this model has no channels but those of its experts"
    names = methods_meant(_split(arguments.method), shape)
    if "--method" not in named:
        reason = "recommended"
        names = [usual_method(shape)]
    if names != _split(arguments.method):
        arguments.method = ",".join(names)
        methods = _methods(names, arguments)
        if isinstance(settings, FindSettings):
            settings = replace(settings, method=methods[0])
        else:
            settings = replace(settings, methods=methods)
        print(f"sparsedash: Method: {', '.join(names)} ({reason}).", file=sys.stderr)
    methods = planned_run(settings).methods
    calibration = settings.calibration
    n_samples = usual_samples(methods, shape, calibration.length)
    if "--calibration-samples" not in named and n_samples != calibration.n_samples:
        calibration = replace(calibration, n_samples=n_samples)
        settings = replace(settings, calibration=calibration)
    if words := refit_words(refit_tokens(methods, shape), calibration):
        print(f"sparsedash: {words}", file=sys.stderr)
    return settings


def require_startable(settings: RunSettings | FindSettings, store: Store) -> None:
    """Raise SparseDashError with every reason why the run cannot start."""
    inspect_config(settings.model, store)
    if problems := run_problems(
        settings, store.folder, named_model(settings.model, store)
    ):
        raise SparseDashError(" ".join(problems))


def _require_used(settings: RunSettings, arguments: argparse.Namespace) -> None:
    """Raise SettingsError for the first flag that was named and that none of the methods uses."""
    heals = bool(getattr(arguments, "heal", 0))
    methods = ", ".join(_split(arguments.method))
    for flag in named_flags(arguments):
        if not _uses(settings, flag, heals=heals):
            raise SettingsError(
                flag,
                message=f"None of these methods uses {flag}: {methods}.",
                advice="Leave it out, or name a method that uses it: see docs/choices.md.",
            )


def _uses(settings: RunSettings, flag: str, *, heals: bool) -> bool:
    """Whether any method uses this flag. heals: whether models are healed, on the same text."""
    if flag in _OF_CALIBRATION:
        return settings.reads_text or heals
    if flag == "--sparsity":
        return any(
            spec.permille in settings.sparsities_permille for spec in settings.points
        )
    if flag in ("--heal", "--heal-steps"):
        return any(method.is_structured for method in settings.methods)
    row = _OF_METHODS.get(flag)
    return row is None or any(method.uses(row.name) for method in settings.methods)


def _values(
    arguments: argparse.Namespace, settings: "type[DataclassInstance]"
) -> dict[str, Any]:
    """The values of the flags that belong to these settings, by the names of the settings."""
    values = dict[str, Any]()
    for flag, row in _flags_of(settings).items():
        argument = flag[2:].replace("-", "_")
        if hasattr(arguments, argument):
            value = getattr(arguments, argument)
            values[row.name] = tuple(value) if isinstance(value, list) else value
    return values


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    calibration = CalibrationSettings(**_values(arguments, CalibrationSettings))
    about_passages = _values(arguments, EvaluationSettings)
    tasks = tuple(_split(",".join(about_passages.pop("tasks", ()))))
    evaluation = EvaluationSettings(**about_passages, tasks=tasks)
    return _values(arguments, RunSettings) | {
        "calibration": calibration,
        "evaluation": evaluation,
    }


def _methods(
    names: Sequence[str], arguments: argparse.Namespace
) -> tuple[MethodSettings, ...]:
    """The named methods as the flags change them. Raises SettingsError."""
    values = _values(arguments, MethodSettings)
    budget = values.pop("budget")
    # What is not named is as in the preset.
    named = [
        _OF_METHODS[flag].name for flag in named_flags(arguments) if flag in _OF_METHODS
    ]
    methods = []
    for name in names:
        preset = presets.method_named(name)
        changes = {
            field: values[field]
            for field in named
            if field in values and preset.uses(field)
        }
        methods.append(replace(preset, **changes))
    return with_budget(methods, budget)
