"""The words for what pruning cost in one run: the sentence that pages open with, and the figures behind it."""

from collections.abc import Sequence

from sparsedash.reporting import wording
from sparsedash.reporting.find_answer import find_sentence, find_steps
from sparsedash.reporting.run_results import Judged, RunResults, best
from sparsedash.reporting.runs.leading import largest_within, smallest_beyond
from sparsedash.reporting.verdicts import allowed, cost, decided, undecided
from sparsedash.schema.searches import FindResult
from sparsedash.stats.tolerance import Tolerance, ToleranceVerdict


def answer(found: RunResults, ended: bool = False) -> str:
    """How much can go within what is allowed, in one sentence. ended: whether no more sparse models come."""
    rows = best(found)
    if (search := _search(found)) is not None and not ended:
        return find_sentence(search, found.run.settings.methods[0], _verdicts(rows))
    if not rows and found.missing and found.run.finished:
        return "The dense model has answered; the records of its sparse models are missing."
    if not rows and ended:
        return "The dense model has answered; no sparse model has."
    if not rows:
        return "The dense model has answered; the sparse models are on their way."
    sentence = _sentence(rows, found.tolerance, found.several_methods)
    if found.run.finished:
        return sentence
    # "So far: removing ...", but "So far undecided: ..."
    colon = "" if _all_open(rows) else ":"
    return f"So far{colon} {sentence[0].lower()}{sentence[1:]}"


def figures(found: RunResults) -> list[str]:
    """What the answer rests on: what the models it speaks of cost, and what would decide those that are undecided."""
    search, rows = _search(found), best(found)
    if search is None:
        return costs(found) + _undecided(rows)
    return costs(found) + (_undecided(_ends(search, rows)) if search.finished else [])


def costs(found: RunResults) -> list[str]:
    """What the models cost that the answer speaks of; of a search also how it got there."""
    rows = best(found)
    if (search := _search(found)) is not None:
        said = [f"{_removed(row)}: {cost(row.verdict)}." for row in _ends(search, rows)]
        return [*said, find_steps(search)] if search.finished else said
    spoken_of = [row for row in (largest_within(rows), smallest_beyond(rows)) if row]
    return [f"{_removed(row)}: {cost(row.verdict)}." for row in spoken_of or rows[:1]]


def _ends(search: FindResult, rows: Sequence[Judged]) -> list[Judged]:
    """The answer of a finished search, and the step after it."""
    ends = (search.answer, search.next_step) if search.finished else ()
    return [row for row in rows if row.record.sparsity_permille in ends]


def _undecided(rows: Sequence[Judged]) -> list[str]:
    """What would decide each of these that is undecided."""
    unknown = [row for row in rows if row.verdict.verdict == "undecided"]
    return [f"{_asked(row)} is undecided: {undecided(row.verdict)}" for row in unknown]


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by what it was asked for; else None."""
    search = found.search
    same = search is not None and found.tolerance == Tolerance(ratio=search.ratio, points=search.points)
    return search if same else None


def _verdicts(rows: Sequence[Judged]) -> dict[int, ToleranceVerdict]:
    return {row.record.sparsity_permille: row.verdict for row in rows}


def _sentence(rows: Sequence[Judged], tolerance: Tolerance, several_methods: bool) -> str:
    by = f" with “{wording.method(rows[0].method)}”" if several_methods else ""
    within, beyond = largest_within(rows), smallest_beyond(rows)
    total = rows[0].verdict.n_passages
    if within is not None:
        rest = _beyond_it(rows, within, beyond, tolerance)
        return f"{_taking(within)}{by} {decided(within.verdict, tolerance)}{rest}, on {total:,} passages."
    if beyond is not None:
        smaller = [row for row in rows if row.record.sparsity_permille < beyond.record.sparsity_permille]
        rest = f"; {_list(smaller)} {_is(smaller)} undecided" if smaller else ""
        return f"{_taking(beyond)}{by} {decided(beyond.verdict, tolerance)}{rest}, on {total:,} passages."
    most = allowed(tolerance)
    if rows[0].verdict.too_few:
        what = f"{total:,} {wording.plural(total, 'passage')}"
        return f"Too few to judge: {what} cannot show that {_taking(rows[0], lower=True)}{by} stays within {most}."
    return f"Undecided: {total:,} passages cannot tell whether {_taking(rows[0], lower=True)}{by} stays within {most}."


def _all_open(rows: Sequence[Judged]) -> bool:
    """Whether nothing is decided of any of these models."""
    return all(row.verdict.verdict == "undecided" for row in rows)


def _beyond_it(rows: Sequence[Judged], within: Judged, beyond: Judged | None, tolerance: Tolerance) -> str:
    """What the sentence says of larger sparsities."""
    larger = [row for row in rows if row.record.sparsity_permille > within.record.sparsity_permille]
    unknown = [row for row in larger if row.verdict.verdict == "undecided"]
    parts = [f"{_list(unknown)} {_is(unknown)} undecided"] if unknown else []
    if beyond is not None:
        parts.append(f"{_asked(beyond)} {decided(beyond.verdict, tolerance)}")
    return f"; {', '.join(parts)}" if parts else ""


def _taking(row: Judged, lower: bool = False) -> str:
    """ "Removing 20 % of the MLP"; where the widths were rounded to less than half of that, also how much is gone."""
    pruned = row.record.pruned
    assert pruned is not None, "what is judged is a sparse model"
    verb, after = ("Removing", "") if row.method.takes_channels else ("Setting", " to zero")
    if row.method.takes_channels and pruned.mlp_sparsity < row.permille / 2000:
        after = f" ({wording.percent(pruned.mlp_sparsity)} after rounding the widths)"
    return f"{verb.lower() if lower else verb} {_asked(row)} {wording.of_what(row.method)}{after}"


def _asked(row: Judged) -> str:
    return wording.permille(row.record.sparsity_permille)


def _removed(row: Judged) -> str:
    """ "20 % (19.8 % of the MLP, 11.7 % of all linear weights)": asked for, measured, and what that means."""
    pruned = row.record.pruned
    assert pruned is not None, "what is judged is a sparse model"
    return f"{_asked(row)} ({wording.measured(pruned)})"


def _list(rows: Sequence[Judged]) -> str:
    return wording.permilles(tuple(row.record.sparsity_permille for row in rows))


def _is(rows: Sequence[Judged]) -> str:
    return "is" if len(rows) == 1 else "are"
