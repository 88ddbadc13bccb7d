"""The table of numbers under the charts of a run."""

from collections.abc import Mapping
from math import isinf

from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.charts.points import times
from sparsedash.reporting.html import Html, Table, element, escape, table
from sparsedash.reporting.readings import factor_interval, perplexity
from sparsedash.reporting.run_results import Judged, RunResults
from sparsedash.schema.records import Record
from sparsedash.stats.significance import accuracy_interval
from sparsedash.stats.tolerance import Loss


def numbers_table(found: RunResults, comparisons: Mapping[str, str] | None = None) -> Table:
    """Every model of the run with its accuracy, its change from dense and their intervals, as a table.

    comparisons: the address of each one's with dense, by its key.
    """
    addresses = comparisons or {}
    names = [_name(name, addresses.get(record.key, "")) for name, record in found.records.items()]
    methods = found.run.settings.methods
    gone = "removed" if all(m.takes_channels for m in methods) else "removed or zero"
    head = [
        "Model",
        f"MLP {gone}",
        f"Linear weights {gone}",
        f"Right of {found.dense.last_word.total:,}",
        "Accuracy",
        "95 % interval",
        "Change, points",
        "Interval",
        "p",
        "Broke",
        "Mended",
        "Word perplexity",
        "Times dense",
        "Interval",
        "Verdict",
    ]
    return table("The numbers of this run", _caption(found), head, _rows(found), names)


def _name(name: str, address: str) -> Html:
    if not address:
        return escape(name)
    return element("a", escape(name), href=address, aria_label=f"{name} beside dense")


def _rows(found: RunResults) -> list[list[str]]:
    rows = []
    for (name, record), judged in zip(found.records.items(), [None, *found.judged], strict=True):
        score = record.last_word
        fewer = "" if score.total == found.dense.last_word.total else f" of {score.total:,}"
        row = [name, *_removed(record), f"{score.right:,}{fewer}"]
        row += [wording.percent(score.accuracy), wording.interval(accuracy_interval(record)), *change_cells(judged)]
        row += [wording.perplexity(record.word_perplexity), *times_dense_cells(judged)]
        rows.append(row)
    return rows


def _removed(record: Record) -> list[str]:
    pruned = record.pruned
    if pruned is None:
        return ["0", "0"]
    return [wording.percent(share) for share in (pruned.mlp_sparsity, pruned.matmul_ratio)]


def change_cells(judged: Judged | None) -> list[str]:
    """The change of accuracy with the interval that the verdict is made from; none where it is left out of that."""
    if judged is None:
        return [""] * 5
    compared, lost = judged.comparison, judged.verdict.accuracy
    return [
        wording.signed(compared.difference),
        f"{wording.signed_interval((-lost.high, -lost.low))}{_level(lost)}" if lost else "",
        wording.p_number(judged.p_value),
        f"{compared.broke:,}",
        f"{compared.mended:,}",
    ]


def times_dense_cells(judged: Judged | None) -> list[str]:
    """The perplexity as a multiple of dense's, the interval that the verdict is made from, and that verdict."""
    if judged is None:
        return ["", "", ""]
    lost = judged.verdict.perplexity
    interval = "none" if isinf(lost.low) else f"{factor_interval(perplexity(lost))}{_level(lost)}"
    return [times(lost.value), interval, verdicts.WORDS[judged.verdict.verdict]]


def _level(lost: Loss) -> str:
    return f" ({100 * lost.level:.3g}{wording.NBSP}%)"


def _caption(found: RunResults) -> str:
    n = max(found.run.n_compared, len(found.sparse))
    several = f" over {n} comparisons" if n > 1 else ""
    early = any(record.stopping for record in found.sparse)
    looked = " Of models that were to stop early they, and p, are valid at any look." if early else ""
    whose = "The dense model's interval is" if early else "Intervals of accuracies are"
    return (
        f"Last word of each passage. {whose} Wilson's. Changes are paired with dense; their intervals are those of "
        f"the verdict, at levels that hold for all of the run together.{looked} p: for equal accuracy, "
        f"{'' if early else 'exact McNemar, '}adjusted after Holm{several}."
    )
