"""Output in a terminal: tables, the progress bar, warnings, errors in one line, JSON files."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from sparsedash.catalog.budgets import BUDGET_TITLES, BUDGETS
from sparsedash.reporting import wording
from sparsedash.reporting.html import readable
from sparsedash.reporting.model_results import Results
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.pair_records import prompt_texts
from sparsedash.schema.progress import STAGE_TITLES, STARTING, Step
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.local_machine import writable_file, write_atomically

EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_BEYOND = 3
EXIT_TO_FIX = 4
EXIT_STOPPED = 130
STDOUT = "-"
"""The file name that means standard output."""
LONGEST_LINE = 1_500
"""Characters of an error or a warning."""


Work = Generator[None, None, int]
"""A command that yields once, when its arguments are checked, and returns its exit code."""


class Parser(argparse.ArgumentParser):
    """A parser of whole flags whose errors are one line; the exit code is that of argparse."""

    def __init__(self, **options: Any) -> None:
        # --heal counts minutes, and would stand for --heal-steps where a command has only that.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End the program with this error."""
        self.exit(EXIT_BAD_ARGUMENTS, f"{self.prog}: {one_line(message)}\n")


def result_writer(
    arguments: argparse.Namespace,
) -> Callable[[Iterable[str], dict[str, Any]], None]:
    """A function that prints the lines of a result and writes its document into the file of --json.

    Raises SettingsError where that file cannot be written.
    """
    file = (
        writable_file(arguments.json, "--json")
        if isinstance(arguments.json, Path)
        else None
    )

    def write(lines: Iterable[str], document: dict[str, Any]) -> None:
        text = (
            ""
            if arguments.json is None
            else json.dumps(document, indent=1, allow_nan=False)
        )
        # The file first: it stays, whatever becomes of the output; and the other way round.
        try:
            if file is not None:
                write_atomically(file, text)
        finally:
            if arguments.json != STDOUT:
                print(*lines, sep="\n")
            elif not arguments.quiet:
                print(*lines, sep="\n", file=sys.stderr)
        if arguments.json == STDOUT:
            print(text)

    return write


def print_warnings(lines: Iterable[str]) -> None:
    """Print the warnings of a run, which the pages show as well."""
    for line in lines:
        print(f"sparsedash: warning: {one_line(line)}", file=sys.stderr)


def print_error(error: SparseDashError, code: int) -> int:
    """Print an error; returns the exit code."""
    print(f"sparsedash: {one_line(str(error))}", file=sys.stderr)
    return code


def silence_libraries() -> None:
    """Switch off progress bars and notices of libraries, which would break ours, but not errors."""
    # By name, since the hub's client read its environment when it was imported.
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")


def one_line(text: str) -> str:
    """The text in one line of bounded length, with control characters spelt out."""
    plain = text.replace("\u00a0", " ")
    shown = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in plain
    )
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]} …"


def run_table(results: RunResults) -> Iterator[str]:
    """The lines of a run's table: the removed share of every budget, answers and verdict by model.

    The KV cache has a column where any of it is gone.
    """
    settings = results.run.settings
    budgets = list(BUDGETS)
    if not any(results.removed(model, "kv-cache") for model in results.models):
        budgets.remove("kv-cache")
    title = (
        ""
        if settings.budget == "channels"
        else f"% of the {BUDGET_TITLES[settings.budget]}"
    )
    removed = wording.budget_titles(settings.methods)["channels"]
    names: dict[str, str] = {
        "channels": removed if "MLP" not in removed else "channels"
    }
    heads = [names.get(budget, budget) for budget in budgets]
    rows = [
        [
            title,
            *heads,
            "last word",
            "last token",
            "word ppl",
            "broke",
            "fixed",
            "verdict",
        ]
    ]
    for model in results.models:
        record = model.record
        word = record.last_word
        token = record.last_token
        row = [results.names[record.key]]
        row += [f"{100 * results.removed(model, budget):.1f} %" for budget in budgets]
        row += [
            f"{word.right} of {word.total}",
            f"{100 * token.right / token.total:.1f} %",
        ]
        row.append(wording.perplexity(record.word_perplexity))
        if record.pruned:
            pairs = model.comparison
            row += [str(pairs.broke), str(pairs.fixed), model.verdict.verdict]
        else:
            row += ["", "", ""]
        rows.append(row)
    yield from align_columns(rows, numbers=True)
    if settings.evaluation.rule == "published":
        yield "last token by the published rule: a passage of more than 197 tokens is wrong"


def prompt_lines(stored: Results, results: RunResults) -> Iterator[str]:
    """The run's prompts, each with what the dense and the headline model write."""
    headline = results.headline
    texts_of_prompts = prompt_texts(
        results.run.settings.prompts,
        results.dense.key,
        headline.key if headline else None,
        stored.continuation,
    )
    for texts in texts_of_prompts:
        rows = [["  dense", readable(texts.dense)]]
        if texts.sparse is not None and headline:
            rows.append([f"  {results.names[headline.key]}", readable(texts.sparse)])
        yield one_line(texts.prompt)
        yield from align_columns(rows)
        yield ""


def align_columns(
    rows: Sequence[Sequence[str]], numbers: bool = False
) -> Iterator[str]:
    """The rows as lines with aligned columns. numbers: all but the first to the right."""
    rows = [list(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        line = [first.ljust(widths[0])]
        for cell, width in zip(cells, widths[1:], strict=True):
            line.append(cell.rjust(width) if numbers else cell.ljust(width))
        yield "  ".join(line).rstrip()


class ProgressBar:
    """Progress on standard error: a bar for each stage and model; lines without a terminal.

    settings: of a run; None of a search. quiet: show nothing. Inside, all that libraries print goes
    to standard error: standard output may be a document.
    """

    def __init__(self, settings: RunSettings | None, quiet: bool = False) -> None:
        self._settings = settings
        self._quiet = quiet
        self._titles: list[str] = []
        self._bar: Any = None
        self._output = ExitStack()

    def __enter__(self) -> "ProgressBar":
        self._output.enter_context(redirect_stdout(sys.stderr))
        self(STARTING)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()
        self._output.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: Step) -> None:
        """Show how far the work is."""
        if self._quiet:
            return
        title = STAGE_TITLES[step.stage]
        if step.stage in ("prune", "heal", "quantise", "evaluate"):
            title += f", {self._model(step.point)}"
        if not sys.stderr.isatty():
            if title not in self._titles:
                counted = step.total and step.unit != "steps"
                print(
                    f"{title}: {step.total:,} {step.unit}" if counted else title,
                    file=sys.stderr,
                )
                self._titles.append(title)
            return
        if [title] != self._titles:
            from tqdm import tqdm

            self._close_bar()
            self._titles = [title]
            self._bar = tqdm(
                total=step.total, desc=title, unit=f" {step.unit}", leave=False
            )
        self._bar.total = step.total
        self._bar.update(step.done - self._bar.n)
        if step.stage == "heal":
            self._bar.set_postfix_str(step.message)

    def _model(self, point: int | None) -> str:
        if point is None:
            return "dense"
        if self._settings is None:
            return f"trial {point + 1}"
        spec = self._settings.points[point]
        return wording.model_name(spec, self._settings.names_methods)
