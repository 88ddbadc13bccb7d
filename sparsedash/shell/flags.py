"""Flags that describe a run or a search, and the settings they give."""

import argparse
from collections.abc import Iterable
from dataclasses import replace

from sparsedash.catalog import choices, presets
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_MODEL,
    SELF,
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


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags of a run to a command's parser."""
    add_model_flags(parser)
    percents = "of MLP channels, or of single weights, to remove (%(default)s)"
    parser.add_argument("--sparsity", default="10,20", metavar="PERCENTS", help=percents)
    names = f"one or several, with commas between, of {_names(presets.METHODS)} (%(default)s)"
    parser.add_argument("--method", default=presets.DEFAULT_METHOD, metavar="NAMES", help=names)
    early = "a sparse model answers only until its difference to the dense one is decided"
    parser.add_argument("--stop-early", action="store_true", help=early)


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags of a search to a command's parser: those of a run, but for the sparsities."""
    add_model_flags(parser)
    names = f"one of {_names(method for method in presets.METHODS if method.searchable)} (%(default)s)"
    parser.add_argument("--method", default=presets.DEFAULT_METHOD, metavar="NAME", help=names)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model, which texts, and where everything is kept."""
    _ask_for_model_and_texts(parser)
    multiple = "kept widths are multiples of N channels (32)"
    parser.add_argument("--width-multiple", type=int, metavar="N", help=multiple)
    _ask_for_answering(parser)
    kept = "where results and what can be used again are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path_argument, default=data_folder(), metavar="DIR", help=kept)


def add_tolerance_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what may be lost."""
    usual = Tolerance()
    ratio = "word perplexity may be R times the dense model's (%(default)s)"
    parser.add_argument("--within", type=float, default=usual.ratio, metavar="R", help=ratio)
    points = "accuracy may fall by P points (%(default)s)"
    parser.add_argument("--within-points", type=float, default=usual.points, metavar="P", help=points)


def tolerance_from_flags(arguments: argparse.Namespace) -> Tolerance:
    """What may be lost. Raises SettingsError."""
    return Tolerance(ratio=arguments.within, points=arguments.within_points)


def open_store(arguments: argparse.Namespace, settings: RunSettings) -> Store:
    """The data folder, once all that the settings name can be used. Raises SparseDashError, with every problem."""
    store = Store(absolute_data_folder(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    if found := run_problems(settings, store.folder):
        raise SparseDashError(" ".join(problem.message for problem in found))
    if is_hub_id(settings.model) and model_config(settings.model) is None:
        # Asked before the engine is loaded, which takes seconds.
        from sparsedash.engine.models.hub import require_reachable

        require_reachable(settings.model)
    return store


def run_from_flags(arguments: argparse.Namespace) -> RunSettings:
    """What run the flags describe. Raises SettingsError."""
    return RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        methods=tuple(_method(name, arguments) for name in arguments.method.split(",")),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=_calibration(arguments),
        evaluation=replace(_evaluation(arguments), stop_early=arguments.stop_early),
        residency=arguments.residency,
    )


def search_from_flags(arguments: argparse.Namespace) -> FindSettings:
    """What search the flags describe. Raises SettingsError."""
    return FindSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        method=_method(arguments.method, arguments),
        calibration=_calibration(arguments),
        evaluation=_evaluation(arguments),
        ratio=arguments.within,
        points=arguments.within_points,
        residency=arguments.residency,
    )


def _method(name: str, arguments: argparse.Namespace) -> MethodSettings:
    method, multiple = presets.method_named(name.strip()), arguments.width_multiple
    return method if multiple is None else replace(method, width_multiple=multiple)


def _calibration(arguments: argparse.Namespace) -> CalibrationSettings:
    return CalibrationSettings(
        corpus=arguments.calibration,
        n_samples=arguments.calibration_samples,
        length=arguments.calibration_length,
        seed=arguments.seed,
        token_weights=arguments.token_weights,
        packed=arguments.packed,
    )


def _evaluation(arguments: argparse.Namespace) -> EvaluationSettings:
    return EvaluationSettings(
        corpus=arguments.evaluation,
        n_passages=arguments.passages,
        shuffle_seed=arguments.shuffle_seed,
        rule=arguments.rule,
    )


def _ask_for_model_and_texts(run: argparse.ArgumentParser) -> None:
    models = f"hub id, folder, .gguf file or {BUILTIN_MODEL}"
    run.add_argument("--model", required=True, metavar="REF", help=models)
    dtypes = (
        "float32, or bfloat16: half the memory; evaluated among other passages, up to 2 in 100 passages change their "
        "verdict (%(default)s)"
    )
    run.add_argument("--dtype", default="float32", metavar="TYPE", help=dtypes)
    resident = (
        "whether the weights are all in memory (resident), or read from their files block by block (streamed), which "
        "gives the same results with far less memory; (%(default)s)"
    )
    run.add_argument("--residency", default="auto", metavar="NAME", help=resident)
    texts = f"{_names(choices.CALIBRATION_CORPORA)} or file:PATH (%(default)s)"
    run.add_argument("--calibration", default=SELF, metavar="REF", help=texts)
    samples = "samples of calibration text (%(default)s)"
    run.add_argument("--calibration-samples", type=int, default=128, metavar="N", help=samples)
    longest = "tokens a sample has at most (%(default)s)"
    run.add_argument("--calibration-length", type=int, default=256, metavar="N", help=longest)
    run.add_argument("--seed", type=int, default=0, metavar="N", help="draws the calibration text (%(default)s)")
    weights = (
        "how much each token of the calibration text counts: equal, or residual (little where its residual "
        "stream is large); (%(default)s)"
    )
    run.add_argument("--token-weights", default="equal", metavar="NAME", help=weights)
    packed = "join the documents of the calibration text and cut them into samples of full length"
    run.add_argument("--packed", action="store_true", help=packed)


def _ask_for_answering(run: argparse.ArgumentParser) -> None:
    texts = f"{_names(choices.EVALUATION_CORPORA)} or file:PATH (%(default)s)"
    run.add_argument("--evaluation", default=BUILTIN_CLOZE, metavar="REF", help=texts)
    run.add_argument("--passages", type=int, metavar="N", help="answer the first N only")
    drawn = "answer N drawn by this seed instead of the first N"
    run.add_argument("--shuffle-seed", type=int, metavar="N", help=drawn)
    rule = "how the last token is judged: plain, or published (longer than 197 tokens is wrong); (%(default)s)"
    run.add_argument("--rule", default="plain", metavar="NAME", help=rule)


def _names(offered: Iterable[choices.CatalogEntry | presets.Method]) -> str:
    return ", ".join(each.name for each in offered)
