"""Command-line arguments that the benchmarks share, and the settings that they describe."""

import argparse
import tempfile
from pathlib import Path
from typing import get_args

from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)


def parser_of(description, **options):
    """A parser of these options. Each is a default, or a type where there is none; or one of them
    and a help.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
        conflict_handler="resolve",
    )
    for name, option in options.items():
        default, words = option if isinstance(option, tuple) else (option, "")
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true", help=words)
        elif isinstance(default, type):
            parser.add_argument(flag, type=default, help=words)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=words)
    return parser


def answers_parser(description, **options):
    """The same with options of the model, the passages and the data folder."""
    shared = {
        "model": BUILTIN_MODEL,
        "evaluation": (BUILTIN_CLOZE, "text reference; not the calibration's"),
        "passages": (int, "the first so many only"),
        "data_dir": Path(tempfile.gettempdir()) / "sparsedash-benchmarks",
    }
    return parser_of(description, **shared | options)


def run_parser(description, **options):
    """The same with options of a pruning run."""
    shared = {
        "calibration": (SELF, "text reference"),
        "samples": 128,
        "length": 256,
        "sparsity": ("10,20,30", "percents with commas between"),
    }
    parser = answers_parser(description, **shared | options)
    parser.add_argument("--dtype", default="float32", choices=get_args(Dtype))
    parser.add_argument(
        "--packing", default="documents", choices=("packed", "documents")
    )
    return parser


def texts_parser(description, **options):
    """The same with several packed calibration texts, texts for the KL divergence, and a folder of
    results.
    """
    shared = {
        "tokens": (2048, "of each text of --divergence"),
        "keep": (str, "data folder that keeps what was computed"),
    }
    parser = run_parser(description, **shared | options)
    parser.add_argument(
        "--calibration", action="append", help="text reference, may be repeated"
    )
    parser.add_argument(
        "--divergence",
        action="append",
        default=[],
        help="text reference, may be repeated",
    )
    parser.set_defaults(packing="packed")
    return parser


def chosen_passages(arguments, n_passages=None):
    """The passages that the arguments name, or so many of them."""
    settings = EvaluationSettings(
        corpus=arguments.evaluation, n_passages=n_passages or arguments.passages
    )
    return choose_passages(read_texts(arguments.evaluation), settings)


def calibration_settings(arguments):
    """The calibration that the arguments describe."""
    return CalibrationSettings(
        corpus=arguments.calibration,
        n_samples=arguments.samples,
        length=arguments.length,
        packed=arguments.packing == "packed",
    )


def run_settings(arguments, methods, **changes):
    """The run of these methods that the arguments describe. changes: of the arguments."""
    changed = argparse.Namespace(**vars(arguments) | changes)
    return RunSettings(
        model=changed.model,
        dtype=changed.dtype,
        methods=tuple(methods),
        sparsities_permille=parse_percents(changed.sparsity),
        calibration=calibration_settings(changed),
        evaluation=EvaluationSettings(
            corpus=changed.evaluation, n_passages=changed.passages
        ),
    )
