"""The table of numbers under the charts of a run."""

from collections.abc import Mapping

from sparsedash.reporting import wording
from sparsedash.reporting.charts.points import Reading, times
from sparsedash.reporting.html import Html, element, escape, table
from sparsedash.reporting.readings import factor_interval
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, accuracy_interval


def numbers_table(found: RunResults, comparisons: Mapping[str, str] | None = None) -> Html:
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
        "95 % interval",
        "p",
        "Broke",
        "Mended",
        "Word perplexity",
        "Times dense",
        "95 % interval",
    ]
    return table("The numbers of this run", _caption(found), head, _rows(found), names)


def _name(name: str, address: str) -> Html:
    if not address:
        return escape(name)
    return element("a", escape(name), href=address, aria_label=f"{name} beside dense")


def _rows(found: RunResults) -> list[list[str]]:
    rows = []
    compared = [None, *((each.comparison, each.p_value) for each in found.judged)]
    for (name, record), pair in zip(found.records.items(), compared, strict=True):
        score = record.last_word
        fewer = "" if score.total == found.dense.last_word.total else f" of {score.total:,}"
        row = [name, *_removed(record), f"{score.right:,}{fewer}"]
        row += [wording.percent(score.accuracy), wording.interval(accuracy_interval(record)), *_change(pair)]
        times_dense = _times_dense(*found.readings[record.key]["word perplexity"]) if pair else ["", ""]
        row += [wording.perplexity(record.word_perplexity), *times_dense]
        rows.append(row)
    return rows


def _removed(record: Record) -> list[str]:
    pruned = record.pruned
    if pruned is None:
        return ["0", "0"]
    return [wording.percent(share) for share in (pruned.mlp_sparsity, pruned.matmul_ratio)]


def _change(pair: tuple[PairedComparison, float] | None) -> list[str]:
    if pair is None:
        return [""] * 5
    compared, p = pair
    return [
        wording.signed(compared.difference),
        wording.signed_interval(compared.interval),
        wording.p_number(p),
        f"{compared.broke:,}",
        f"{compared.mended:,}",
    ]


def _times_dense(reading: Reading) -> list[str]:
    """The perplexity as a multiple of dense's, and its interval."""
    return [times(-reading.value), factor_interval(reading)]


def _caption(found: RunResults) -> str:
    several = f" over {len(found.sparse)} comparisons" if len(found.sparse) > 1 else ""
    if any(record.stopping for record in found.sparse):
        methods = "Of models that were to stop early, intervals and p-values are valid at any look; "
        methods += (
            f"the dense model's interval is Wilson's. Changes are paired against dense, p adjusted after Holm{several}."
        )
        perplexities = "those of the paired mean as if nothing had been stopped"
    else:
        methods = "Intervals of accuracies are Wilson's; changes are paired against dense with Tango's interval, their "
        methods += f"p-values exact McNemar, adjusted after Holm{several}."
        perplexities = "those of the paired mean"
    return f"Last word of each passage. {methods} Intervals of perplexities are {perplexities}."
