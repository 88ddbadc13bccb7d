"""What to do next with what a run has shown: one sentence, and what the form is filled in with for it.

Plain text: whoever shows it escapes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.reporting import wording
from sparsedash.reporting.run_results import Judged, RunResults, best
from sparsedash.reporting.runs.leading import largest_within, smallest_beyond
from sparsedash.reporting.verdicts import MOST_PASSAGES, needed_words
from sparsedash.schema.method_settings import FIXED_PERMILLE
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import EvaluationSettings, RunSettings
from sparsedash.stats.tolerance import FEWEST_PASSAGES

_SAID = 2
"""Undecided sparsities whose passages are told."""


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do next. link: what the way there is called. asked: what it asks the form for; None: it leads to the
    files of the model that the answer speaks of.
    """

    said: str
    link: str
    asked: RunSettings | FindSettings | None


def next_step(found: RunResults) -> NextStep | None:
    """The next step after a finished run; None where none of its sparse models was judged, or it is not finished."""
    rows = best(found)
    if not rows or not found.run.finished:
        return None
    within, beyond = largest_within(rows), smallest_beyond(rows)
    if found.run.find is not None and within is not None:
        said = f"Next: export the model at {wording.permille(within.permille)}, or see which answers it changed."
        return NextStep(said=said, link="Export this model", asked=None)
    if unknown := _open(rows, within, beyond):
        return _ask_more(found, unknown)
    if found.run.find is not None:
        said = "Next: allow more, or search with another method."
        return NextStep(said=said, link="Change the settings", asked=found.run.find)
    return _look_between(found, rows, within, beyond)


def _open(rows: Sequence[Judged], within: Judged | None, beyond: Judged | None) -> list[Judged]:
    """Those undecided that the answer depends on: above what is within, below what is beyond."""
    low = within.permille if within else -1
    high = beyond.permille if beyond else 1001
    return [row for row in rows if row.verdict.verdict == "undecided" and low < row.permille < high]


def _ask_more(found: RunResults, unknown: Sequence[Judged]) -> NextStep:
    total, asked = found.dense.last_word.total, found.run.find or found.run.settings
    counted = sorted((n, row.permille) for row in unknown if (n := _needed(row)) is not None)
    too_few = any(row.verdict.too_few for row in unknown)
    if not counted and not too_few:
        near = f"{wording.permille(unknown[0].permille)} loses nearly what is allowed: over {MOST_PASSAGES:,} passages"
        said = f"Next: allow more or less, or try other sparsities. {near} would be needed to decide it."
        return NextStep(said=said, link="Change the settings", asked=asked)
    if counted:
        would = [f"{needed_words(n)} would decide {wording.permille(permille)}" for n, permille in counted[:_SAID]]
        told = f"{wording.first_upper(', '.join(would))}, judging by these {total:,}."
    else:
        told = f"With fewer than {FEWEST_PASSAGES} nothing is ever called within."
    evaluation = _more_passages(asked.evaluation, counted[0][0] if counted else FEWEST_PASSAGES)
    more = replace(asked, evaluation=evaluation if counted else replace(evaluation, n_passages=None))
    return NextStep(said=f"Next: ask more passages. {told}", link="Ask more passages", asked=more)


def _needed(row: Judged) -> int | None:
    n = row.verdict.passages_needed
    return None if n is None or n > MOST_PASSAGES else n


def _more_passages(now: EvaluationSettings, needed: int) -> EvaluationSettings:
    """So many of the same text, if it has them or is not known here; else all of the smallest that has them, or of the
    largest there is.
    """
    known = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
    n = max(FEWEST_PASSAGES, wording.round_up(needed))
    if known.get(now.corpus, n) >= needed:
        return replace(now, n_passages=n if n < known.get(now.corpus, n + 1) else None)
    enough = [name for name, count in known.items() if count >= needed]
    return replace(now, corpus=enough[0] if enough else max(known, key=lambda name: known[name]), n_passages=None)


def _look_between(found: RunResults, rows: Sequence[Judged], within: Judged | None, beyond: Judged | None) -> NextStep:
    if within is not None and beyond is not None:
        said = f"Next: search for the most that can go, between {_both(within, beyond)}."
    elif within is not None:
        said = f"Next: see whether more than {wording.permille(within.permille)} can go."
    else:
        said = f"Next: see whether less than {wording.permille(rows[0].permille)} can go, or race other methods."
    settings, method = found.run.settings, rows[0].method
    if method.pattern in FIXED_PERMILLE:
        return NextStep(said="Next: race other methods.", link="Change the settings", asked=settings)
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=replace(settings.evaluation, stop_early=False),
        ratio=found.tolerance.ratio,
        points=found.tolerance.points,
    )
    return NextStep(said=said, link="Set up a search", asked=search)


def _both(low: Judged, high: Judged) -> str:
    return f"{low.permille / 10:g} and {wording.permille(high.permille)}"
