"""What to do next after a run or a search: what the passages there are can decide, else one
sparsity not yet tried.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.choices import EVALUATION_CORPORA, CatalogEntry
from sparsedash.catalog.presets import DEFAULT_METHOD, METHODS, method_named
from sparsedash.reporting import wording
from sparsedash.reporting.run_answer import TOO_FEW, answered, quoted_method
from sparsedash.reporting.run_results import (
    Judged,
    RunResults,
    is_one_layer_apart,
    largest_within,
    smallest_beyond,
)
from sparsedash.reporting.task_words import most_times
from sparsedash.reporting.wording import and_join, sparsity_percent, tolerance_words
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_CLOZE_402,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.run_checks import Reach
from sparsedash.stats.anytime import ALPHA
from sparsedash.stats.sparsity_search import first_crossing, passages_to_search
from sparsedash.stats.tolerance import (
    FEWEST_PASSAGES,
    SPREAD_NATS,
    passages_to_judge,
    record_losses,
)

_MOST_PASSAGES = 1_000_000
NOTHING_KNOWN = Reach()
"""Of what can be asked for: nothing is refused."""


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do next.

    link: the words of the link there; none where the page of the results is the place. asked: what
    the link fills the form in with; None: it leads to the files of the model that the answer names.
    """

    said: str
    link: str
    asked: RunSettings | FindSettings | None


def next_step(found: RunResults, reach: Reach = NOTHING_KNOWN) -> NextStep | None:
    """The next step after a finished run; None where none of its sparse models was judged, or it is
    not finished.

    Steps that their passages can decide; where none suffice, one sparsity more, which may stay
    undecided. What the form would refuse has no link. reach: what can be asked for here.
    """
    if not found.best or not found.run.finished:
        return None
    step, asked = _with_enough_text(_next_step(found, reach), found.best[0].record), found.run.find
    if step.link and step.asked is not None and (problems := reach.problems(step.asked)):
        step = replace(step, said=f"{step.said} It cannot start: {problems[0]}", link="")
    if asked is None or (limits := asked.tolerance) == found.tolerance:
        return step
    return replace(step, said=f"The search was made for {tolerance_words(limits)}. {step.said}")


def _with_enough_text(step: NextStep, record: Record) -> NextStep:
    """The step with as many calibration samples as its methods need, where the run's did with
    less.
    """
    asked, widths = step.asked, record.pruned.dense_widths if record.pruned else (0,)
    if asked is None:
        return step
    calibration, solves = asked.calibration, planned_run(asked).solves
    fewest = calibration.fewest_samples(widths)
    if not solves or calibration.n_samples >= fewest:
        return step
    n_samples = max(fewest, CalibrationSettings.n_samples)
    return replace(
        step, asked=replace(asked, calibration=replace(calibration, n_samples=n_samples))
    )


def _next_step(found: RunResults, reach: Reach) -> NextStep:
    rows, run, settings = found.best, found.run, found.run.settings
    within, beyond = largest_within(rows), smallest_beyond(rows)
    low, high = within.permille if within else -1, beyond.permille if beyond else 1001
    method = rows[0].method
    if run.find is not None and within is not None:
        said = (
            f"Next: export the model at {sparsity_percent(low)}, or see which answers it changed."
        )
        return NextStep(said=said, link="Export this model", asked=None)
    _, undecided = answered({row.permille: row.verdict for row in rows})
    unknown = [row for row in rows if row.permille in undecided]
    if on_passages := [row for row in unknown if row.verdict.perplexity.verdict != "within"]:
        again = _without_stopping(found, on_passages) or _test_again(found, on_passages, reach)
        return again or _too_close(found, low, on_passages)
    if unknown:
        return _ask_more(found, unknown)
    if run.find is not None:
        search, other = _by_limits(run.find, found.tolerance), _recommended(method)
        if other == method:
            return NextStep(
                said="Next: allow more, and search again.", link="Change the limits", asked=search
            )
        said = f"Next: search with {quoted_method(other)}."
        return NextStep(said=said, link="Search again", asked=replace(search, method=other))
    if method.pattern in FIXED_PERMILLE:
        return _race_others(settings, method)
    if is_one_layer_apart(within, beyond):
        return _no_layer_more(settings, method, within)
    if within is not None and low < high < 1001:
        said = f"search for the largest sparsity within your limit, between {low / 10:g} and {sparsity_percent(high)}"
    elif within is not None:
        said = f"see whether more than {sparsity_percent(low)} can be removed"
    else:
        said = f"see whether less than {sparsity_percent(rows[0].permille)} can be removed"
        if not method.reads_text and (other := _recommended(method)) != method:
            # A method that knows nothing of the activations is no way to find how much can go.
            method = other
            said += f" with {quoted_method(method)}"
    evaluation, on = _deciding_passages(found, reach)
    if evaluation is None:
        # Twice of what does not cost too much, or where the loss would be the limit; half way by
        # another method.
        between = min(2 * low, 900)
        if beyond is not None:
            between = (
                _at_limit(within, beyond)
                if method == beyond.method
                else (max(low, 0) + high) // 20 * 10
            )
        if not max(low, 0) < between < high:
            return NextStep(
                said=f"{on} Next: upload more passages, or allow a larger loss.",
                link="",
                asked=settings,
            )
        return _try_on_all(found, method, between, on, reach)
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=replace(evaluation, stop_early=False),
        tolerance=found.tolerance,
    )
    return NextStep(said=f"Next: {said}{on}", link="Set up a search", asked=search)


def _at_limit(within: Judged | None, beyond: Judged) -> int:
    """The sparsity in per mille, in whole percents, at which the loss is the limit if it grows
    evenly between two.
    """
    low, less = (within.permille, within.verdict.perplexity.value) if within else (0, 0.0)
    lost, half_way = beyond.verdict.perplexity, (low + beyond.permille) / 2
    at = first_crossing([(low, less), (beyond.permille, lost.value)], lost.most)
    return max(low + 10, 10 * round((half_way if at is None else at) / 10))


def _no_layer_more(
    settings: RunSettings, method: MethodSettings, within: Judged | None
) -> NextStep:
    """What can be done where one layer more is beyond the limits."""
    if within is not None:
        name = sparsity_percent(within.permille)
        said = f"One layer more costs too much. Next: export the model at {name}, or see which answers it changed."
        return NextStep(said=said, link="Export this model", asked=None)
    other, instead = _recommended(method), ""
    if other == method.unhealed:
        # No channel is part of the cache.
        budget = "weights" if method.budget == "kv-cache" else method.budget
        other, instead = (
            replace(method_named(DEFAULT_METHOD), budget=budget),
            ", which removes channels",
        )
    said = f"Not even one layer can go with {quoted_method(method)}. Next: try {quoted_method(other)}{instead}."
    asked = replace(settings, methods=(other,))
    return NextStep(said=said, link=f"Try {wording.method_title(other)}", asked=asked)


def _race_others(settings: RunSettings, method: MethodSettings) -> NextStep:
    """Race all methods of a pattern that has one sparsity; none where they were."""
    others = tuple(each.settings for each in METHODS if each.settings.pattern == method.pattern)
    if set(others) <= set(settings.methods):
        return NextStep(
            said="Next: allow a larger loss, or remove channels instead.", link="", asked=settings
        )
    asked = replace(settings, methods=others)
    return NextStep(said="Next: compare other methods.", link="Compare other methods", asked=asked)


def _recommended(method: MethodSettings) -> MethodSettings:
    """The recommended method that removes the same structure by the same budget; single weights
    keep theirs.
    """
    if not method.takes_channels:
        return method
    return replace(
        method_named("layers" if method.takes_layers else DEFAULT_METHOD), budget=method.budget
    )


def _try_on_all(
    found: RunResults, method: MethodSettings, permille: int, why: str, reach: Reach
) -> NextStep:
    """Where no text has the passages for a search: one sparsity, on the most there are."""
    evaluation = found.run.settings.evaluation
    on = f" with {quoted_method(method)}" if method != found.best[0].method else ""
    if texts := _longer_texts(evaluation, found.dense.last_word.total, reach):
        text = max(texts, key=lambda text: text.n_texts or _MOST_PASSAGES)
        evaluation, on = (
            replace(evaluation, corpus=text.name, n_passages=None),
            f"{on} on {text.title}",
        )
    asked = replace(found.run.settings, evaluation=evaluation)
    return _try(
        asked, method, permille, why, f"{on} (that may stay undecided), or upload more passages."
    )


def _try(
    settings: RunSettings, method: MethodSettings, permille: int, why: str, end: str
) -> NextStep:
    """Try one sparsity more. end: of the sentence."""
    name = sparsity_percent(permille)
    asked = replace(settings, methods=_beside_unhealed(method), sparsities_permille=(permille,))
    return NextStep(said=f"{why} Next: try {name}{end}", link=f"Try {name}", asked=asked)


def _beside_unhealed(method: MethodSettings) -> tuple[MethodSettings, ...]:
    """The method; a healed one comes beside the one that it began from."""
    return tuple(dict.fromkeys((method.unhealed, method)))


def _by_limits(search: FindSettings, tolerance: Tolerance) -> FindSettings:
    return replace(search, tolerance=tolerance)


def _deciding_passages(found: RunResults, reach: Reach) -> tuple[EvaluationSettings | None, str]:
    """Passages on which a search can decide, and the end of the sentence that says so; None, and
    why: there are none.

    Those of the run, or else of the smallest text with enough.
    """
    evaluation, n_tested = found.run.settings.evaluation, found.dense.last_word.total
    needed = _search_needs(found)
    if n_tested >= needed:
        return evaluation, "."
    for text in _longer_texts(evaluation, n_tested, reach):
        if (text.n_texts or _MOST_PASSAGES) >= needed:
            part, passages = _part_of(text, needed)
            why = (
                TOO_FEW
                if n_tested < FEWEST_PASSAGES
                else f"{n_tested:,} are too few to decide each step of a search"
            )
            return replace(
                evaluation, corpus=text.name, n_passages=part
            ), f", on {passages}: {why}."
    limit = wording.limit_factor(found.tolerance.ratio)
    takes = f"A search at a limit of {limit} takes about {wording.round_up(needed):,} passages"
    return None, f"{takes}, more than any text within reach has."


def _search_needs(found: RunResults) -> int:
    """Passages for a search, whose losses spread as those of the run's model that is nearest the
    limit.
    """
    near = min(
        found.best, key=lambda row: abs(row.verdict.perplexity.value - row.verdict.perplexity.most)
    )
    spread = (
        record_losses(found.dense, near.record).nats.deviation
        if not near.verdict.too_few
        else SPREAD_NATS
    )
    return passages_to_search(found.tolerance, spread if isfinite(spread) else SPREAD_NATS)


def _part_of(text: CatalogEntry, needed: int) -> tuple[int | None, str]:
    """How many of a text's passages to test on, None for all, and their name. Built-in texts are
    small: all of them.
    """
    n = wording.round_up(needed)
    if text.n_texts <= n or text.name in (BUILTIN_CLOZE, BUILTIN_CLOZE_402):
        return None, text.title
    return n, f"{n:,} of {text.title}"


def _without_stopping(found: RunResults, unknown: Sequence[Judged]) -> NextStep | None:
    """Test on all passages what stopped early, where they should decide it; None where nothing is
    such.
    """
    run, n_passages = found.run, found.dense.last_word.total
    stopped = [
        row for row in unknown if row.record.stopping and row.verdict.n_passages < n_passages
    ]
    needed = {row.permille: _needed(found, row, n_passages) for row in stopped}
    if run.find is not None or not (
        rows := [row for row in stopped if needed[row.permille] <= n_passages]
    ):
        return None
    asked = _asked_again(run.settings, rows, replace(run.settings.evaluation, stop_early=False))
    names = _percents(asked.sparsities_permille)
    said = f"Next: test {names} on all {n_passages:,} passages, without stopping early."
    n = max((row.verdict.passages_needed or 0 for row in rows), default=0)
    said += (
        f" About {wording.round_up(n):,} should settle it, estimated from those answered."
        if n
        else ""
    )
    return NextStep(said=said, link="Test on all passages", asked=asked)


def _asked_again(
    settings: RunSettings, rows: Sequence[Judged], evaluation: EvaluationSettings
) -> RunSettings:
    """These models of a run once more, evaluated like this."""
    methods, permilles = _beside_unhealed(rows[0].method), tuple(row.permille for row in rows)
    return replace(settings, methods=methods, evaluation=evaluation, sparsities_permille=permilles)


def _test_again(found: RunResults, unknown: Sequence[Judged], reach: Reach) -> NextStep | None:
    """Test those of these models that a text has enough passages for, the smallest such text; None
    where none has.
    """
    run, n_tested = found.run, found.dense.last_word.total
    texts = _longer_texts(run.settings.evaluation, n_tested, reach)
    most = max((text.n_texts or _MOST_PASSAGES for text in texts), default=0)
    needed = {row.permille: _needed(found, row, most) for row in unknown}
    for text in texts:
        n_there = text.n_texts or _MOST_PASSAGES
        rows = [row for row in unknown if needed[row.permille] <= n_there]
        if not rows:
            continue
        n = min(wording.round_up(int(max(needed[row.permille] for row in rows))), n_there)
        part, passages = _part_of(text, n) if n > n_tested else (None, text.title)
        evaluation = replace(run.settings.evaluation, corpus=text.name, n_passages=part)
        asked: RunSettings | FindSettings
        if run.find is not None:
            asked = replace(_by_limits(run.find, found.tolerance), evaluation=evaluation)
            said = "Next: search again"
        else:
            asked = _asked_again(run.settings, rows, evaluation)
            said = f"Next: test {_percents(asked.sparsities_permille)}"
        said += f" on {passages}."
        if n_tested < FEWEST_PASSAGES:
            said = f"{wording.first_upper(TOO_FEW)}. {said}"
        elif n > n_tested:
            is_same = text.name == run.settings.evaluation.corpus
            other = not is_same and (run.settings.evaluation.corpus, text.name) != (
                BUILTIN_CLOZE,
                BUILTIN_CLOZE_402,
            )
            there = ", if as much is lost there" if other else ""
            enough = "They" if part else f"About {n:,}"
            said += f" {enough} should settle it, estimated from these {n_tested:,}{there}."
        left_open = [
            loss.task for row in rows for loss in row.verdict.tasks if loss.verdict == "undecided"
        ]
        said += f" Undecided too: {and_join(list(dict.fromkeys(left_open)))}." if left_open else ""
        return NextStep(said=said, link="Test on more passages", asked=asked)
    return None


def _ask_more(found: RunResults, unknown: Sequence[Judged]) -> NextStep:
    """Ask more questions of the tasks that alone leave these models undecided, where they have
    more.
    """
    settings = found.run.settings
    open_ = [
        (result, result.loss.needed)
        for row in unknown
        for result in (found.tasks[row.record.key].results if row.record.key in found.tasks else ())
        if result.loss and result.verdict == "undecided"
    ]
    search = found.run.find and _by_limits(found.run.find, found.tolerance)
    asked, limit = search or settings, settings.evaluation.task_limit
    if not open_:
        failed = and_join(list(found.run.unanswered))
        first = f"see in the warnings why {failed} failed, then " if failed else ""
        said = f"Next: {first}run it again, so that all tasks are answered."
        return NextStep(said=said, link="Run it again", asked=asked)
    tasks = and_join(list(dict.fromkeys(result.task for result, _ in open_)))
    factors = [(needed or inf) / len(result.pair.questions) for result, needed in open_]
    room = min(most_times(result.task, len(result.pair.questions)) for result, _ in open_)
    if limit is None or max(factors) > room:
        return NextStep(said=f"Next: allow a larger loss on {tasks}.", link="", asked=asked)
    # The limit counts the questions of each part of a task.
    more = replace(settings.evaluation, task_limit=wording.round_up(ceil(limit * max(factors))))
    unsure = (
        ""
        if all(f"builtin:{result.task}" in BUILTIN_TASKS for result, _ in open_)
        else ", if it has so many"
    )
    times = f"{max(1.1, *factors):.2g} times as many questions of {tasks}{unsure}"
    said = f"Next: ask about {times}, which should settle it."
    return NextStep(said=said, link="Ask more questions", asked=replace(asked, evaluation=more))


def _percents(permilles: Iterable[int]) -> str:
    return and_join(list(map(sparsity_percent, permilles)))


def _needed(found: RunResults, row: Judged, most: int) -> float:
    """Passages that would decide this model; infinite where no number would. most: how many the
    longest text has.
    """
    n_tested = found.dense.last_word.total
    if n_tested < FEWEST_PASSAGES:
        # So few say nothing of how many it takes.
        n_losses = 2 * max(1, found.run.n_compared)
        return min(most, passages_to_judge(0.0, found.tolerance.ratio, ALPHA / n_losses) or most)
    on_passages = replace(row.verdict, tasks=(), unanswered=False)
    return max(on_passages.passages_needed or inf, n_tested)


def _longer_texts(now: EvaluationSettings, n_tested: int, reach: Reach) -> list[CatalogEntry]:
    """What has more passages than were tested, with a title for the sentence: the same text, then
    others.

    n_texts: 0 where it is not known, as of a large file of which only a part was asked for.
    """
    known = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
    whole = now.n_passages is None or n_tested < now.n_passages
    there = known.get(now.corpus, n_tested)
    if now.corpus not in known and not whole:
        counted = reach.n_passages(now.corpus)
        there = 0 if counted is None else max(counted, n_tested)
    of = f"passages of {wording.reference_title(now.corpus)}"
    if now.corpus in (BUILTIN_CLOZE, BUILTIN_CLOZE_402):
        of = "built-in passages"
    same = CatalogEntry(
        now.corpus, f"the {there:,} {of}" if there else f"all {of}", "", n_texts=there
    )
    built_in, n = known[BUILTIN_CLOZE_402], known["lambada_openai"]
    others = [
        CatalogEntry(
            BUILTIN_CLOZE_402, f"the {built_in:,} built-in passages", "", n_texts=built_in
        ),
        CatalogEntry(
            "lambada_openai",
            f"the {n:,} passages of LAMBADA, fetched once from the hub",
            "",
            n_texts=n,
        ),
    ]
    longer = [text for text in others if text.n_texts > there > 0]
    return [
        text
        for text in (same, *longer)
        if (text.n_texts or inf) > n_tested and not reach.lacks(text.name)
    ]


def _too_close(found: RunResults, low: int, unknown: Sequence[Judged]) -> NextStep:
    """What can be done where no passages decide: a smaller sparsity, where these decide on it, or
    another limit.
    """
    names, n_tested = _percents(row.permille for row in unknown), found.dense.last_word.total
    verb = "is" if len(unknown) == 1 else "are"
    why = f"{names} {verb} too close to the limit to settle with the passages available."
    asked, method = found.run.find or found.run.settings, unknown[0].method
    between = (max(low, 0) + unknown[0].permille) // 20 * 10
    decides = n_tested >= _search_needs(found) and method.pattern not in FIXED_PERMILLE
    if isinstance(asked, RunSettings) and decides and between > max(low, 0):
        return _try(asked, method, between, why, ", or allow a larger loss.")
    said = f"{why} Next: upload more passages, or allow a larger loss."
    if isinstance(asked, FindSettings):
        return NextStep(
            said=said, link="Allow a larger loss", asked=_by_limits(asked, found.tolerance)
        )
    return NextStep(said=said, link="", asked=asked)
