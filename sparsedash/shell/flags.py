"""Flags that describe a run or a search, made from the field table, and the settings they give."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sparsedash.catalog import presets
from sparsedash.catalog.choices import OFFERED, CatalogEntry
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    FindSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.service.request_checks import is_hub_id, run_problems
from sparsedash.shell.terminal import path_argument
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.local_machine import absolute_data_folder, data_folder
from sparsedash.storage.model_folders import model_config
from sparsedash.storage.store import WORK_PATIENCE_S, Store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_METAVARS = {"choice": "NAME", "number": "X", "reference": "REF", "sparsities": "PERCENTS", "whole": "N"}
_NOT_OF_A_SEARCH = ("sparsities_permille", "stop_early")


def add_run_flags(parser: argparse.ArgumentParser, *, search: bool = False) -> None:
    """Add the flags of a run, or those of a search: without sparsities, and with one method."""
    some = f"one of {_names(method for method in presets.METHODS if method.searchable)}"
    several = f"one or several, with commas between, of {_names(presets.METHODS)}"
    for settings in (RunSettings, CalibrationSettings, MethodSettings, EvaluationSettings):
        for row in field_rows(settings).values():
            if row.flag and not (search and row.name in _NOT_OF_A_SEARCH):
                add_flag(parser, row)
    method = f"{some if search else several} (%(default)s)"
    metavar = "NAME" if search else "NAMES"
    parser.add_argument("--method", default=presets.DEFAULT_METHOD, metavar=metavar, help=method)
    add_data_folder_flag(parser)


def add_tolerance_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the tolerance."""
    for row in field_rows(FindSettings).values():
        add_flag(parser, row)


def add_data_folder_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the data folder."""
    kept = "where results are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path_argument, default=data_folder(), metavar="DIR", help=kept)


def run_from_flags(arguments: argparse.Namespace) -> RunSettings:
    """The run that the flags describe. Raises SettingsError."""
    return RunSettings(
        **_values(arguments, RunSettings) | {"sparsities_permille": parse_percents(arguments.sparsity)},
        methods=tuple(_method(name.strip(), arguments) for name in arguments.method.split(",")),
        calibration=CalibrationSettings(**_values(arguments, CalibrationSettings)),
        evaluation=EvaluationSettings(**_values(arguments, EvaluationSettings)),
    )


def search_from_flags(arguments: argparse.Namespace) -> FindSettings:
    """The search that the flags describe. Raises SettingsError."""
    return FindSettings(
        **_values(arguments, RunSettings),
        **_values(arguments, FindSettings),
        method=_method(arguments.method, arguments),
        calibration=CalibrationSettings(**_values(arguments, CalibrationSettings)),
        evaluation=EvaluationSettings(**_values(arguments, EvaluationSettings)),
    )


def tolerance_from_flags(arguments: argparse.Namespace) -> Tolerance:
    """The tolerance. Raises SettingsError."""
    return Tolerance(**_values(arguments, FindSettings))


def open_store(arguments: argparse.Namespace) -> Store:
    """The store in the data folder that is asked for. Raises StoreError."""
    return Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)


def open_store_for(settings: RunSettings, arguments: argparse.Namespace) -> Store:
    """The store, where the run can start. Raises SparseDashError with every problem."""
    store = open_store(arguments)
    if found := run_problems(settings, store.folder):
        raise SparseDashError(" ".join(problem.message for problem in found))
    if is_hub_id(settings.model) and model_config(settings.model) is None:
        # Before the engine is loaded, which takes seconds.
        from sparsedash.engine.models.hub import require_reachable

        require_reachable(settings.model)
    return store


def add_flag(parser: argparse.ArgumentParser, row: FieldRow) -> None:
    """Add the flag of a setting."""
    about = row.flag_help or row.help
    if row.kind == "switch":
        parser.add_argument(row.flag, action="store_true", help=about)
        return
    if row.kind == "choice":
        about = ". ".join(filter(None, [f"{row.label}: {', '.join(row.options)}", about]))
    if row.kind == "reference" and row.name != "model":
        about = f"{_names(OFFERED[row.title])} or file:PATH"
    default = row.default
    if row.kind == "sparsities":
        default = ",".join(f"{permille / 10:g}" for permille in row.default)
    required = row.name == "model"
    parser.add_argument(
        row.flag,
        type={"whole": int, "number": float}.get(row.kind, str),
        default=None if required else default,
        required=required,
        metavar=_METAVARS[row.kind],
        help=about if required or default is None else f"{about} (%(default)s)",
    )


def _values(arguments: argparse.Namespace, settings: "type[DataclassInstance]") -> dict[str, Any]:
    """The values of the flags that belong to these settings, by the names of the settings."""
    dests = {row.name: row.flag[2:].replace("-", "_") for row in field_rows(settings).values() if row.flag}
    return {name: getattr(arguments, dest) for name, dest in dests.items() if hasattr(arguments, dest)}


def _method(name: str, arguments: argparse.Namespace) -> MethodSettings:
    return replace(presets.method_named(name), **_values(arguments, MethodSettings))


def _names(offered: Iterable[CatalogEntry | presets.Method]) -> str:
    return ", ".join(each.name for each in offered)
