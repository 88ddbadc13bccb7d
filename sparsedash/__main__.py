"""The same pipeline from a shell: `python -m sparsedash run --help`."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from sparsedash import catalog
from sparsedash.document import run_document
from sparsedash.errors import Cancelled, SettingsError, SparseDashError
from sparsedash.folders import data_folder
from sparsedash.progress import STAGE_TITLES, Stage
from sparsedash.records import Record, Run
from sparsedash.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.store import Store

EXIT_BAD_ARGUMENTS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code: 0 done, 1 failed, 2 bad arguments, 130 stopped."""
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings(arguments)
        store = Store(arguments.data_dir)
    except SettingsError as error:
        return _complain(error, EXIT_BAD_ARGUMENTS)
    except SparseDashError as error:
        return _complain(error, 1)
    _quieten()
    try:
        document = _run(settings, store)
    except SparseDashError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain(Cancelled(), 130)
    _print_table(document)
    if arguments.json:
        _write_whole(arguments.json, json.dumps(document, indent=1))
    return 0


def _run(settings: RunSettings, store: Store) -> dict[str, object]:
    # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
    from sparsedash.engine import pipeline

    with _Bar() as bar:
        run: Run = pipeline.run(settings, store, bar)
    dense = store.get(Record, run.dense)
    sparse = [store.get(Record, key) for key in run.sparse]
    assert dense is not None
    return run_document(run, dense, [record for record in sparse if record is not None])


class _Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code that argparse uses as well."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_ARGUMENTS, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sparsedash", description="What would pruning cost this language model?")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    run = commands.add_parser("run", help="calibrate, prune and evaluate a model")
    names = ", ".join(method.name for method in catalog.METHODS)
    run.add_argument(
        "--model",
        required=True,
        metavar="REF",
        help="hub id, folder, .gguf file or " + catalog.BUILTIN_MODEL,
    )
    run.add_argument(
        "--calibration", default="self", metavar="REF", help="text name, file:PATH or self"
    )
    run.add_argument(
        "--evaluation", default=catalog.BUILTIN_CLOZE, metavar="REF", help="text name or file:PATH"
    )
    run.add_argument(
        "--sparsity",
        default="10,20",
        metavar="PERCENTS",
        help="of MLP channels to remove, such as 10,20",
    )
    run.add_argument("--method", default=catalog.DEFAULT_METHOD, metavar="NAME", help=names)
    run.add_argument(
        "--width-multiple",
        type=int,
        metavar="N",
        help="kept widths are multiples of N channels (32)",
    )
    run.add_argument("--calibration-samples", type=int, default=128, metavar="N")
    run.add_argument(
        "--calibration-length",
        type=int,
        default=256,
        metavar="N",
        help="tokens a sample has at most",
    )
    run.add_argument("--passages", type=int, metavar="N", help="answer the first N only")
    run.add_argument(
        "--shuffle-seed",
        type=int,
        metavar="N",
        help="answer N drawn by this seed instead of the first N",
    )
    run.add_argument(
        "--rule",
        default="plain",
        metavar="NAME",
        help="how the last token is judged: plain, or published (longer than 197 tokens is wrong)",
    )
    run.add_argument(
        "--stop-early",
        action="store_true",
        help="a sparse model answers only until its difference to the dense one is decided",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="draws the calibration text")
    run.add_argument("--dtype", default="float32", metavar="TYPE", help="float32 or bfloat16")
    run.add_argument("--data-dir", type=Path, default=data_folder(), metavar="DIR")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the whole result there")
    return parser


def _settings(arguments: argparse.Namespace) -> RunSettings:
    method = catalog.method_named(arguments.method)
    if arguments.width_multiple is not None:
        method = replace(method, width_multiple=arguments.width_multiple)
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise SettingsError("--json", str(arguments.json), "a file in a folder that exists")
    return RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        methods=(method,),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=CalibrationSettings(
            corpus=arguments.calibration,
            n_samples=arguments.calibration_samples,
            length=arguments.calibration_length,
            seed=arguments.seed,
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
    """One progress bar a stage, on standard error."""

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: tqdm | None = None
        self._title = ""
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(
        self,
        stage: Stage,
        done: int,
        total: int,
        *,
        unit: str = "steps",
        message: str = "",
        n_right: int | None = None,
    ) -> None:
        title = STAGE_TITLES[stage] + (f", {message}" if message and stage == "evaluate" else "")
        if self._bar is None or title != self._title:
            self.__exit__()
            self._title = title
            self._bar = self._tqdm(total=total, desc=title, unit=f" {unit}", leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def _print_table(document: dict[str, object]) -> None:
    rows = [("dense", document["dense"])]
    rows += [(f"{s['sparsity_percent']:g} %", s) for s in document["sparse"]]  # type: ignore[attr-defined]
    print(
        f"{'':8}{'last word':>16}{'last token':>13}{'word ppl':>11}{'broke':>8}{'mended':>8}{'p':>9}"
    )
    for name, answers in rows:
        assert isinstance(answers, dict)
        word, token, pairs = answers["last_word"], answers["last_token"], answers.get("paired")
        line = f"{name:8}{word['right']:>6} of {word['total']:<6}{token['right'] / token['total']:>13.1%}"
        line += f"{answers['word_perplexity']:>11.2f}"
        if pairs:
            line += f"{pairs['broke']:>8}{pairs['mended']:>8}{pairs['p_value']:>9.2g}"
        print(line)
    settings = document["settings"]
    assert isinstance(settings, dict)
    if settings["evaluation"]["rule"] == "published":
        print("last token by the published rule: a passage of more than 197 tokens is wrong")
    if settings["evaluation"]["stop_early"]:
        print("sparse models stopped when their difference was decided; p is valid at any look")


def _write_whole(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half of it."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _quieten() -> None:
    """Libraries' own bars and notices would tear ours apart; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "")
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")


def _complain(error: SparseDashError, code: int) -> int:
    print(f"sparsedash: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
