"""The table that the shell prints: one line a model, for a terminal."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

from sparsedash.catalog import presets
from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings


def printed_table(document: dict[str, Any]) -> Iterator[str]:
    """The lines of the table. document: as `reporting.files.run_json` makes it.

    MLPs, linear: the shares of their weights, and of all linear weights, that were measured to be gone.
    """
    sparse, settings = document["sparse"], document["settings"]
    several = len(settings["methods"]) > 1
    names = [row_name(MethodSettings(**answers["method"]), answers["sparsity_percent"], several) for answers in sparse]
    width = max(8, *(len(name) + 2 for name in ["", *names]))
    removed, answered = f"{'MLPs':>8}{'linear':>8}", f"{'last word':>16}{'last token':>13}{'word ppl':>14}"
    yield f"{'':{width}}{removed}{answered}{'broke':>8}{'mended':>8}{'verdict':>11}"
    for name, answers in zip(["dense", *names], [document["dense"], *sparse], strict=True):
        yield f"{name:{width}}{_answers(answers)}"
    if settings["evaluation"]["rule"] == "published":
        yield "last token by the published rule: a passage of more than 197 tokens is wrong"
    if settings["evaluation"]["stop_early"]:
        yield "sparse models stopped when their difference was decided; verdicts allow for that"


def aligned(rows: Sequence[Sequence[str]], numbers: bool = False) -> Iterator[str]:
    """The rows as lines with their columns aligned. numbers: all columns but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = (cell.rjust(w) if numbers and i else cell.ljust(w) for i, (cell, w) in enumerate(cells))
        yield "  ".join(padded).rstrip()


def row_name(method: MethodSettings, percent: float, several: bool) -> str:
    """ "20 %", or "magnitude, 20 %" where a run has several methods."""
    removed = f"{percent:g} %"
    return f"{presets.method_name(method)}, {removed}" if several else removed


def _answers(answers: dict[str, Any]) -> str:
    word, token, pairs = answers["last_word"], answers["last_token"], answers.get("paired")
    line = "".join(f"{share:>8.1%}" for share in (answers.get("mlp_sparsity", 0), answers.get("matmul_ratio", 0)))
    line += f"{word['right']:>6} of {word['total']:<6}{token['right'] / token['total']:>13.1%}"
    perplexity = answers["word_perplexity"]
    line += f"{wording.perplexity(inf if perplexity is None else perplexity):>14}"
    if pairs:
        line += f"{pairs['broke']:>8}{pairs['mended']:>8}{answers['verdict']['verdict']:>11}"
    return line
