"""The table of all runs in words: its cells, its order, what is looked for in it, and the sentence above it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import tzinfo
from math import inf, isinf

from sparsedash.reporting import wording
from sparsedash.reporting.charts.points import times
from sparsedash.reporting.html import Table, table
from sparsedash.reporting.readings import factor_interval, perplexity
from sparsedash.reporting.runs.rows import RunRow, removed, state
from sparsedash.reporting.verdicts import WORDS, accuracy_open, allowed
from sparsedash.stats.tolerance import Tolerance, Verdict

ORDERS: dict[str, str] = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "verdict": "Most within first",
    "cost": "Least lost first",
    "removed": "Most removed first",
    "model": "By model",
    "method": "By method",
    "longest": "Longest first",
}
"""The orders of the table by their names in the address, with their words; the usual one first."""

_COLUMNS = (
    "Run",
    "What it is",
    "Method",
    "Removed",
    "Verdict",
    "On the model",
    "Word perplexity, times dense",
    "Interval",
    "Accuracy",
    "State",
    "Started",
    "Took",
)

_RANK: dict[Verdict, int] = {"within": 0, "undecided": 1, "beyond": 2}

_KEYS: dict[str, Callable[[RunRow], tuple[float, ...] | tuple[str, ...]]] = {
    "newest": lambda row: (-row.at,),
    "oldest": lambda row: (row.at,),
    "verdict": lambda row: _by_verdict(row),
    "cost": lambda row: (row.model.verdict.perplexity.value if row.model else inf,),
    "removed": lambda row: (-max(row.settings.made_permille),),
    "model": lambda row: (wording.title(row.settings.model).casefold(),),
    "method": lambda row: (wording.methods(row.settings).casefold(),),
    "longest": lambda row: (-(row.seconds or 0.0),),
}


def ordered(rows: Sequence[RunRow], order: str) -> list[RunRow]:
    """The rows in one of ORDERS, pinned ones before all others. rows: newest first, which stays where others tie."""
    key = _KEYS.get(order, _KEYS["newest"])
    return sorted(rows, key=lambda row: (not row.mark.pinned, key(row)))


def matching(rows: Sequence[RunRow], text: str, model: str) -> list[RunRow]:
    """The rows of a model whose words hold every word of a text, whatever its case. model: a reference; "" for all."""
    sought = text.casefold().split()
    return [
        row
        for row in rows
        if (not model or row.settings.model == model) and all(word in _searched(row) for word in sought)
    ]


def models(rows: Sequence[RunRow]) -> dict[str, str]:
    """The models that there are runs of, by their references, with their titles; in the order of the titles."""
    found = {row.settings.model: wording.title(row.settings.model) for row in rows}
    return dict(sorted(found.items(), key=lambda pair: pair[1].casefold()))


def sentence(rows: Sequence[RunRow], tolerance: Tolerance) -> str:
    """What can be said of all runs, in one sentence."""
    n_live = sum(row.live for row in rows)
    judged = [row.model.verdict for row in rows if row.model is not None]
    found = [each.verdict for each in judged]
    within, n_open = found.count("within"), found.count("undecided")
    if not found and n_live:
        return f"{n_live} {wording.plural(n_live, 'run')} under way, no result yet."
    if not found:
        return "No run has a sparse model that was judged."
    if len(found) == 1:
        rest = "; it is undecided" if n_open else accuracy_open(judged[0])
        has = "has a" if within else "has no"
        return f"The one run with a result {has} model within what is allowed, {allowed(tolerance)}{rest}."
    n_half = sum(bool(accuracy_open(each)) for each in judged)
    rest = f", {n_half} of them by word perplexity alone" if n_half else ""
    rest += f"; {n_open} {'is' if n_open == 1 else 'are'} undecided" if n_open else ""
    many = f"{within} of {len(found)}" if within else f"None of {len(found)}"
    has = "has" if within <= 1 else "have"
    return f"{many} runs {has} a model within what is allowed, {allowed(tolerance)}{rest}."


def what_it_is(row: RunRow) -> str:
    """What stands under a row's title: its model where that is a name, its texts, its numbers."""
    evaluation = row.settings.evaluation
    n = "all" if evaluation.n_passages is None else f"{evaluation.n_passages:,} of"
    parts = [wording.title(row.settings.model)] if row.mark.name else []
    parts += [f"calibrated on {_short(row.settings.calibration.corpus)}"] if row.settings.reads_text else []
    return " · ".join([*parts, f"asked {n} {_short(evaluation.corpus)}", row.settings.dtype])


def _short(reference: str) -> str:
    """A title without what stands in brackets."""
    return wording.title(reference).partition(" (")[0]


def verdict(row: RunRow) -> tuple[str, str]:
    """The verdict on the model that the run's answer speaks of, and which model that is."""
    if row.model is None:
        return ("", "") if row.known else ("…", "being read")
    which = f"at {wording.permille(row.model.permille)}"
    several = len(row.settings.methods) > 1
    return WORDS[row.model.verdict.verdict], f"{which} with {wording.method(row.model.method)}" if several else which


def cost(row: RunRow) -> tuple[str, str, str]:
    """What that model lost: word perplexity as a multiple of dense's, its interval, and the points of accuracy."""
    if row.model is None:
        return "", "", ""
    one, two = row.model.verdict.perplexity, row.model.verdict.accuracy
    interval = "" if isinf(one.low) else factor_interval(perplexity(one)).removesuffix(" ×")
    return times(one.value), interval, f"{wording.signed(-two.value)} points" if two else "accuracy not judged"


def when(row: RunRow, zone: tzinfo | None) -> tuple[str, str]:
    """When it was started, and how long it took."""
    seconds = row.seconds
    return wording.moment(row.at, zone), "" if seconds is None else wording.duration(seconds)


def listing_file(rows: Sequence[RunRow], zone: tzinfo | None) -> Table:
    """These rows as a table to take along."""
    return table("All runs", "", list(_COLUMNS), [_cells(row, zone) for row in rows])


def _cells(row: RunRow, zone: tzinfo | None) -> list[str]:
    which, model = verdict(row)
    words = [row.title, what_it_is(row), wording.methods(row.settings), " ".join(removed(row)).strip()]
    return [*words, which, model, *cost(row), ", ".join(filter(None, state(row))), *when(row, zone)]


def told_away(chosen: Collection[str], shown: Sequence[RunRow]) -> str:
    """How many of the chosen runs the table does not show now; empty where it shows all. chosen: keys."""
    n = len(set(chosen) - {row.key for row in shown})
    return f"{n} of them {'is' if n == 1 else 'are'} not in this list" if n else ""


def by_address(rows: Sequence[RunRow]) -> Mapping[str, RunRow]:
    """The rows by what names them in an address."""
    return {row.address: row for row in rows}


def _by_verdict(row: RunRow) -> tuple[float, ...]:
    if row.model is None:
        return (3.0, 0.0, 0.0)
    found = row.model.verdict
    return (_RANK[found.verdict], -row.model.permille, found.perplexity.value)


def _searched(row: RunRow) -> str:
    settings = row.settings
    texts = [wording.title(settings.calibration.corpus), wording.title(settings.evaluation.corpus)]
    named = [row.mark.name, row.about, settings.model, wording.methods(settings), settings.dtype, *texts]
    return "\n".join([*named, row.key]).casefold()
