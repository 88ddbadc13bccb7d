"""The command `sparsedash`, which is `python -m sparsedash` as well: the dashboard's pipeline from a shell."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sparsedash import __version__
from sparsedash.catalog import choices, presets
from sparsedash.reporting.files.run_json import run_document
from sparsedash.reporting.printed_table import printed_table, row_name
from sparsedash.schema.errors import Cancelled, SparseDashError
from sparsedash.schema.progress import STAGE_TITLES, Step
from sparsedash.schema.records import Record, Run
from sparsedash.schema.secrets import redact_output
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.service.problems import problems
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.data_dir import data_folder, in_full
from sparsedash.storage.store import WORK_PATIENCE_S, Store
from sparsedash.storage.whole_file import writable_file, write_whole

EXIT_BAD_ARGUMENTS = 2
EXIT_BEYOND = 3
MOST_SAID = 1_500
"""Characters of one complaint."""

_FIRST_RUN = f"sparsedash run --model {BUILTIN_MODEL} --sparsity 10,20"
_ABOUT = f"""\
What would pruning cost this language model?

Calibrates, prunes and evaluates a model as the dashboard does, and shares its data folder: what one of them has
computed, the other does not compute again. To begin with, on a small model that needs no network:

    {_FIRST_RUN}
"""
_ENDS = """\
`sparsedash run --help` lists what can be chosen. The dashboard itself: `streamlit run app.py` in the checkout.
Exit codes: 0 done, 1 failed, 2 a bad argument, 3 beyond what may be lost (with --fail-beyond),
130 stopped from the keyboard.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code, as `--help` lists them."""
    redact_output()
    arguments = _parsed(argv)
    try:
        settings = _settings(arguments)
        tolerance = Tolerance(ratio=arguments.within, points=arguments.within_points)
        file = writable_file(arguments.json, "--json") if arguments.json else None
        store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)
        if found := problems(settings, store.folder):
            raise SparseDashError(" ".join(problem.message for problem in found))
    except SparseDashError as error:
        # Nothing has been computed yet: whatever is wrong was asked wrongly, the data folder's name included.
        return _complain(error, EXIT_BAD_ARGUMENTS)
    _quieten()
    try:
        document = _run(settings, store, tolerance)
        print(*printed_table(document), sep="\n")
        if file is not None:
            write_whole(file, json.dumps(document, indent=1, allow_nan=False))
    except SparseDashError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain(Cancelled(), 130)
    beyond = any(sparse["verdict"]["verdict"] == "beyond" for sparse in document["sparse"])
    return EXIT_BEYOND if arguments.fail_beyond and beyond else 0


def _run(settings: RunSettings, store: Store, tolerance: Tolerance) -> dict[str, Any]:
    with _Bar(settings) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run import pipeline

        run: Run = pipeline.run(settings, store, bar)
    dense = store.get(Record, run.dense)
    sparse = [store.get(Record, key) for key in run.sparse]
    assert dense is not None
    return run_document(run, dense, [record for record in sparse if record is not None], tolerance)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code that argparse uses as well."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_ARGUMENTS, f"{self.prog}: {_one_line(message)}\n")


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if value == []:  # argparse takes the value out of `--flag=--`
            parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
    return arguments


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="sparsedash", description=_ABOUT, epilog=_ENDS, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"sparsedash {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    does = "calibrate, prune and evaluate a model"
    run = commands.add_parser("run", help=does, description=f"{does.capitalize()}: {_FIRST_RUN}")
    _ask_for_model_and_texts(run)
    _ask_for_pruning(run)
    _ask_for_answering(run)
    kept = "where results and what can be used again are kept (%(default)s)"
    run.add_argument("--data-dir", type=_path, default=data_folder(), metavar="DIR", help=kept)
    run.add_argument("--json", type=_path, metavar="FILE", help="write the whole result there")
    return parser


def _ask_for_model_and_texts(run: argparse.ArgumentParser) -> None:
    models = f"hub id, folder, .gguf file or {BUILTIN_MODEL}"
    run.add_argument("--model", required=True, metavar="REF", help=models)
    run.add_argument("--dtype", default="float32", metavar="TYPE", help="float32 or bfloat16 (%(default)s)")
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


def _ask_for_pruning(run: argparse.ArgumentParser) -> None:
    percents = "of MLP channels, or of single weights, to remove (%(default)s)"
    run.add_argument("--sparsity", default="10,20", metavar="PERCENTS", help=percents)
    names = f"one or several, with commas between, of {_names(presets.METHODS)} (%(default)s)"
    run.add_argument("--method", default=presets.DEFAULT_METHOD, metavar="NAMES", help=names)
    multiple = "kept widths are multiples of N channels (32)"
    run.add_argument("--width-multiple", type=int, metavar="N", help=multiple)


def _ask_for_answering(run: argparse.ArgumentParser) -> None:
    texts = f"{_names(choices.EVALUATION_CORPORA)} or file:PATH (%(default)s)"
    run.add_argument("--evaluation", default=BUILTIN_CLOZE, metavar="REF", help=texts)
    run.add_argument("--passages", type=int, metavar="N", help="answer the first N only")
    drawn = "answer N drawn by this seed instead of the first N"
    run.add_argument("--shuffle-seed", type=int, metavar="N", help=drawn)
    rule = "how the last token is judged: plain, or published (longer than 197 tokens is wrong); (%(default)s)"
    run.add_argument("--rule", default="plain", metavar="NAME", help=rule)
    early = "a sparse model answers only until its difference to the dense one is decided"
    run.add_argument("--stop-early", action="store_true", help=early)
    usual = Tolerance()
    ratio = "word perplexity may be R times the dense model's (%(default)s)"
    run.add_argument("--within", type=float, default=usual.ratio, metavar="R", help=ratio)
    points = "accuracy may fall by P points (%(default)s)"
    run.add_argument("--within-points", type=float, default=usual.points, metavar="P", help=points)
    fails = f"exit with {EXIT_BEYOND} where a sparse model is beyond that"
    run.add_argument("--fail-beyond", action="store_true", help=fails)


def _names(offered: Iterable[choices.Choice | presets.Method]) -> str:
    return ", ".join(each.name for each in offered)


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is needed")
    return Path(text)


def _settings(arguments: argparse.Namespace) -> RunSettings:
    methods = [presets.method_named(name.strip()) for name in arguments.method.split(",")]
    if arguments.width_multiple is not None:
        methods = [replace(method, width_multiple=arguments.width_multiple) for method in methods]
    return RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        methods=tuple(methods),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=CalibrationSettings(
            corpus=arguments.calibration,
            n_samples=arguments.calibration_samples,
            length=arguments.calibration_length,
            seed=arguments.seed,
            token_weights=arguments.token_weights,
            packed=arguments.packed,
        ),
        evaluation=EvaluationSettings(
            corpus=arguments.evaluation,
            n_passages=arguments.passages,
            shuffle_seed=arguments.shuffle_seed,
            rule=arguments.rule,
            stop_early=arguments.stop_early,
        ),
    )


class _Bar:
    """One progress bar a stage and sparse model, on standard error."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: tqdm | None = None
        self._title = ""
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: Step) -> None:
        title = STAGE_TITLES[step.stage]
        if step.stage in ("prune", "evaluate"):
            title += f", {self._model(step.point)}"
        if self._bar is None or title != self._title:
            self.__exit__()
            self._title = title
            self._bar = self._tqdm(total=step.total, desc=title, unit=f" {step.unit}", leave=False)
        self._bar.total = step.total
        self._bar.update(step.done - self._bar.n)

    def _model(self, point: int | None) -> str:
        if point is None:
            return "dense"
        method, permille = self._settings.points[point]
        return row_name(method, permille / 10, len(self._settings.methods) > 1)


def _quieten() -> None:
    """Libraries' own bars and notices would tear ours apart; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "")
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")


def _complain(error: SparseDashError, code: int) -> int:
    print(f"sparsedash: {_one_line(str(error))}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """The text with what would break a line or steer a terminal spelt out, and cut where nobody reads on."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown if len(shown) <= MOST_SAID else f"{shown[:MOST_SAID]} …"


if __name__ == "__main__":
    sys.exit(main())
