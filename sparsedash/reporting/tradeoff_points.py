"""The data of a run's trade-off charts: its models as points with intervals, limits, and published
results.
"""

from dataclasses import replace
from itertools import chain
from math import isinf

from sparsedash.catalog.published_results import (
    LAST_WORD,
    PublishedRow,
    published_model,
)
from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.charts import tradeoff_data
from sparsedash.reporting.charts.tradeoff_data import (
    Measure,
    Point,
    Reading,
    Readings,
    TradeoffData,
)
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, share_interval
from sparsedash.stats.task_verdicts import TaskResult
from sparsedash.stats.tolerance import Loss, Verdict


def run_tradeoff(
    results: RunResults,
    axis: Budget | None = None,
    live: tuple[str, Point] | None = None,
) -> TradeoffData:
    """The data of a run's trade-off chart. axis: the budget whose shares it shows; None: the run's
    axis.

    live: the label of its line and the model that is answering now, drawn at the share asked for.
    """
    settings = results.run.settings
    axis = axis or settings.axis
    lines: dict[str, list[Point]] = {label: [] for label in results.lines}
    for model in results.sparse_models:
        label = results.line_of(model.spec)
        lines.setdefault(label, []).append(model_point(results, model, axis))
    if live is not None and axis == settings.budget:
        label, point = live
        lines[label].append(point)
    methods = [model.method for model in results.sparse_models]
    return TradeoffData(
        dense=model_point(results, results.models[0], axis),
        lines=lines,
        n_passages=results.n_passages,
        sparsity_title=wording.sparsity_axis_title(methods, axis),
        planned=settings.point_permilles if axis == settings.budget else (),
        leader=results.line_of(results.best[0].spec) if results.best else "",
        published=published_beside(results.dense) if axis == "channels" else (),
        limits=loss_limits(results),
    )


def loss_limits(results: RunResults) -> dict[Measure, float]:
    """The limits of the measures that are judged, in nats and points."""
    tolerance = results.tolerance
    limits: dict[Measure, float] = {
        "word perplexity": tolerance.most("word perplexity")
    }
    if any(model.verdict.accuracy for model in results.sparse_models):
        limits["accuracy"] = tolerance.points
    return limits


def has_task_lines(results: RunResults) -> bool:
    """Whether a share of right answers to a task was judged of the best method."""
    losses = chain.from_iterable(model.verdict.tasks for model in results.best)
    return any(loss.measure == "accuracy" for loss in losses)


def task_tradeoff(results: RunResults, axis: Budget) -> TradeoffData:
    """The data of the chart with a line for each task, of the best method."""
    lines: dict[str, list[Point]] = {}
    limits = set[float]()
    for model in results.best:
        answers = results.tasks.get(model.record.key)
        point = model_point(results, model, axis)
        for result in answers.results if answers else ():
            if result.loss is not None and result.loss.measure == "accuracy":
                lines.setdefault(result.task, []).append(
                    _task_point(point, result, result.loss)
                )
                limits.add(100 * result.loss.most)
    passages = run_tradeoff(results, axis)
    dense = Reading(0.0, 0.0, 0.0, "dense")
    return replace(
        passages,
        dense=replace(passages.dense, readings={"tasks": (dense,)}),
        lines=lines,
        leader="",
        published=(),
        limits={"tasks": max(limits)} if len(limits) == 1 else {},
    )


def _task_point(point: Point, result: TaskResult, loss: Loss) -> Point:
    """The point of a model on a task's line. point: the model's own."""
    change = Reading(
        -100 * loss.value,
        -100 * loss.high,
        -100 * loss.low,
        f"{wording.signed_points(-loss.value)} points",
    )
    shares = f"{wording.percent(result.dense)} to {wording.percent(result.other)} right"
    return replace(
        point,
        readings={"tasks": (change,)},
        facts=[point.facts[0], shares],
        verdicts={"tasks": loss.verdict},
        hollow=False,
    )


def model_point(results: RunResults, model: ModelResult, axis: Budget) -> Point:
    """The point of one of its models in a chart over the shares of a budget."""
    record = model.record
    score = record.last_word
    sparsity = 100 * results.removed(model, axis)
    facts = [
        f"{score.right:,} of {score.total:,} right",
        f"word perplexity {wording.perplexity(record.word_perplexity)}",
    ]
    verdicts: dict[Measure, Verdict] = {}
    if record.pruned:
        removed = f"{sparsity:.1f} % {wording.removed_or_zeroed(model.method)}"
        if quantised := record.pruned.quantised:
            size = wording.size(quantised.n_bytes)
            removed = f"{size}, {sparsity:.1f} % less than dense in 16 bits"
        facts.insert(0, removed)
        verdicts = {loss.measure: loss.verdict for loss in model.verdict.losses}
    return Point(
        key=record.key,
        permille=record.sparsity_permille,
        sparsity=sparsity,
        readings=model_readings(model),
        facts=facts,
        hollow=score.total < results.n_passages,
        verdicts=verdicts,
    )


def model_readings(model: ModelResult) -> Readings:
    """A model's values of every measure, with the intervals behind its verdict.

    Of perplexity what is farther than the chart reaches stands at its edge. One passage has no
    interval, and no bar.
    """
    score = model.record.last_word
    anytime = model.record.stopping is not None
    return {
        "word perplexity": (_perplexity_reading(model.verdict.perplexity),),
        "accuracy": (_accuracy_reading(model),),
        "flips": _flip_readings(model.comparison),
        "share right": (share_right(score.right, score.total, anytime),),
    }


def _perplexity_reading(loss: Loss) -> Reading:
    value = _chart_nats(loss.value)
    factor = f"{wording.nats_as_factor(value)} that of dense"
    if isinf(loss.low):
        return Reading(-value, -value, -value, f"{factor} (no interval)")
    low = _chart_nats(loss.low)
    high = _chart_nats(loss.high)
    words = f"{factor} ({wording.factor_range(low, high)} ×)"
    return Reading(-value, -high, -low, words)


def _chart_nats(nats: float) -> float:
    """A loss in nats, no farther than the chart of perplexity reaches."""
    return max(-tradeoff_data.FARTHEST_ABOVE, min(tradeoff_data.FARTHEST_BELOW, nats))


def _accuracy_reading(model: ModelResult) -> Reading:
    change = model.comparison.difference
    loss = model.verdict.accuracy
    # Where the verdict leaves accuracy out, that has the interval of a comparison by itself.
    low, high = model.comparison.interval if loss is None else (-loss.high, -loss.low)
    words = f"{wording.signed_points(change)} points ({wording.signed_interval((low, high))})"
    return Reading(100 * change, 100 * low, 100 * high, words)


def _flip_readings(comparison: PairedComparison) -> tuple[Reading, Reading]:
    n = comparison.n_passages
    broke = share_right(comparison.broke, n, comparison.anytime)
    fixed = share_right(comparison.fixed, n, comparison.anytime)
    words = f"{comparison.broke:,} broke, {comparison.fixed:,} fixed"
    return (
        Reading(-broke.value, -broke.high, -broke.low, words, "broke"),
        replace(fixed, role="fixed", words=words),
    )


def share_right(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long
    was counted.
    """
    share = 100 * right / total
    low, high = (100 * bound for bound in share_interval(right, total, anytime))
    return Reading(share, low, high, f"{share:.1f} % ({low:.1f} to {high:.1f})")


def live_model(results: RunResults, job: Job) -> tuple[str, Point] | None:
    """The line and the point of the sparse model that a job is evaluating now; None where it does
    something else.

    A run's records come in the order of its points: one whose record is there is drawn already.
    """
    progress = job.progress
    points = results.run.settings.points
    if progress.point is None or progress.n_right is None or results.run.finished:
        return None
    if not progress.done or not len(results.run.sparse) <= progress.point < len(points):
        return None
    spec = points[progress.point]
    point = live_point(spec.permille, progress.n_right, progress.done)
    return results.line_of(spec), point


def live_point(permille: int, right: int, done: int) -> Point:
    """The point of a model that has answered `done` passages so far. permille: asked for."""
    return Point(
        key="",
        permille=permille,
        sparsity=permille / 10,
        readings={"share right": (share_right(right, done),)},
        facts=[f"{right:,} of {done:,} right so far"],
        live=True,
    )


def published_beside(dense: Record) -> tuple[PublishedRow, ...]:
    """The published rows that a record can be compared with: the same model, passages and number
    format.
    """
    if dense.corpus != "lambada_openai":
        return ()
    rows = []
    for row in LAST_WORD:
        names = (row.model, published_model(row.model).reference)
        if row.dtype == dense.dtype and dense.model in names:
            rows.append(row)
    return tuple(rows)
