"""The results of a run: its records beside dense, their verdicts, the race of its methods, its
prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from sparsedash.reporting import wording
from sparsedash.reporting.model_results import (
    ModelResult,
    Results,
    best_method,
    headline_model,
    judge,
    measure_beside,
    with_verdicts,
)
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import Record, Run
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.stats.tolerance import ToleranceVerdict, judge_all, record_losses


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The dense model of a run and the sparse ones there are so far, their outcomes without words
    and first choices.

    models: each compared with dense on the passages that it answered, dense itself first. search:
    what was found so far, where the run is a search. name: given by users, or "". missing: why
    others of its sparse records are not here, by their names. judge_tasks: finds the verdicts on
    its tasks, by the keys of sparse records.
    """

    run: Run
    models: tuple[ModelResult, ...]
    tolerance: Tolerance
    search: FindResult | None = None
    name: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    judge_tasks: Callable[[], Mapping[str, JudgedAnswers]] = dict

    @cached_property
    def tasks(self) -> Mapping[str, JudgedAnswers]:
        """The verdicts on its tasks, by the keys of sparse records; their questions are read when
        it is asked for.
        """
        return self.judge_tasks()

    @property
    def title(self) -> str:
        """Name and subject of the run."""
        return wording.stored_run_title(self.run, self.name)

    @property
    def dense(self) -> Record:
        """The dense record."""
        return self.models[0].record

    @property
    def n_passages(self) -> int:
        """Passages that the dense model answered."""
        return self.dense.last_word.total

    @property
    def judged_search(self) -> FindResult | None:
        """The search that the run is, where it is judged by the limits that it was made for."""
        is_same = self.search is not None and self.search.tolerance == self.tolerance
        return self.search if is_same else None

    @property
    def sparse_models(self) -> tuple[ModelResult, ...]:
        """The sparse models, in the order they were made."""
        return self.models[1:]

    @property
    def sparse_records(self) -> tuple[Record, ...]:
        """The sparse records, in the order they were made."""
        return tuple(model.record for model in self.sparse_models)

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        return {self.names[model.record.key]: model.record for model in self.models}

    @property
    def best(self) -> list[ModelResult]:
        """The models of the run's best method, by rising sparsity: see `best_method`."""
        return best_method(self.sparse_models)

    @property
    def headline(self) -> Record | None:
        """The sparse record that the answer names."""
        return self.headline_model.record if self.headline_model else None

    @cached_property
    def headline_model(self) -> ModelResult | None:
        """The sparse model that the answer names."""
        return headline_model(self.sparse_models, search=self.run.find is not None)

    @property
    def racing_specs(self) -> dict[str, list[SparseSpec]]:
        """Models that are compared with the best ones, these included, by their method's title."""
        by_title: dict[str, list[SparseSpec]] = {}
        if self.headline_model is None:
            return by_title
        channels = self.headline_model.method.is_structured
        for spec in self.run.settings.points:
            if (
                spec.method
                and not spec.is_quantised
                and spec.method.is_structured == channels
            ):
                by_title.setdefault(wording.spec_title(spec), []).append(spec)
        return by_title

    @cached_property
    def race(self) -> list[tuple[ModelResult, LikelihoodDifference]]:
        """Of several methods the others' models at the sparsity that the answer names, each against
        the best one's.

        The one that loses least first. All pairs of methods at all sparsities count, since the
        answers chose the best one and where it is best. Zeros are not compared with channels.
        """
        best = self.headline_model
        if best is None:
            return []
        raced = self.racing_specs
        shares = set[int]()
        for specs in raced.values():
            shares.update(spec.permille for spec in specs)
        titles = raced.keys() - {wording.spec_title(best.spec)}
        rivals = []
        for model in self.sparse_models:
            is_alike = model.permille == best.permille and not model.spec.is_quantised
            if is_alike and wording.spec_title(model.spec) in titles:
                rivals.append(model)
        n_pairs = len(raced) * (len(raced) - 1) // 2 * len(shares)
        pairs = [(best.record, rival.record) for rival in rivals]
        differences = likelihood_differences(pairs, n_pairs)
        ranked = zip(rivals, differences, strict=True)
        return sorted(ranked, key=lambda pair: pair[1].value)

    @property
    def comparisons(self) -> dict[str, dict[str, str]]:
        """What the address of the compare page says of each sparse model beside dense, by its
        record's key.
        """
        return {
            record.key: {"run": self.run.key, "right": self.names[record.key]}
            for record in self.sparse_records
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of its records within the run, by their keys, dense first."""
        return wording.record_names(self.run)

    def line_of(self, spec: SparseSpec) -> str:
        """The label of a model's line in a chart: "sparse", or its method where that has to be said.

        Dense quantised begins the line of the first method that is quantised alike.
        """
        settings = self.run.settings
        if spec.method is None:
            points = (point for point in settings.points if point.method)
            spec = next(
                (point for point in points if point.weights == spec.weights), spec
            )
        name = wording.spec_title(spec) if settings.names_methods else "sparse"
        return wording.with_type(name, spec, again=bool(self.run.source_type))

    @property
    def lines(self) -> list[str]:
        """The labels of all lines of its chart, in the order of its methods."""
        pruned = [spec for spec in self.run.settings.points if spec.method]
        return list(
            dict.fromkeys(map(self.line_of, pruned or self.run.settings.points))
        )

    def file_bytes(self, model: ModelResult) -> tuple[int, int] | None:
        """Bytes of a model's GGUF file and of dense's in 16 bits; None where nothing was quantised
        to compare with.

        Of one in 16 bits those of the file that quantised ones were made of, with all its widths
        filled up if it must.
        """
        pruned = model.record.pruned
        if pruned is None:
            return None
        if pruned.quantised:
            return pruned.quantised.n_bytes, pruned.quantised.dense_bytes
        for sibling in (model.pruned for model in self.sparse_models):
            if sibling.quantised and sibling.spec.before_quantising == pruned.spec:
                return sibling.quantised.full_bytes, sibling.quantised.dense_bytes
        return None

    def removed(self, model: ModelResult, budget: Budget) -> float:
        """The share of a budget that is gone: of bytes by the files where there are some to
        compare.
        """
        if budget == "bytes" and (sizes := self.file_bytes(model)):
            return max(0.0, 1 - sizes[0] / sizes[1])
        return model.record.pruned.reached[budget] if model.record.pruned else 0.0


def run_results(
    results: Results,
    run: Run | None,
    tolerance: Tolerance | None = None,
    name: str = "",
) -> RunResults | None:
    """The run's records, or None while there is no dense one. Missing ones count among the
    comparisons.

    tolerance: the limits; None: the usual ones. name: given by users.
    """
    if run is None or not run.dense:
        return None
    measured = {}
    missing = {}
    for key, record_name in wording.record_names(run).items():
        try:
            measured[record_name] = measure_beside(results, run.dense, key)
        except LookupError as error:
            missing[record_name] = str(error.args[0])
    if wording.DENSE not in measured:
        return None
    limits = tolerance or Tolerance()
    dense, *sparse = measured.values()
    losses = {model.record.key: model.losses for model in sparse}
    verdicts = results.answers.verdicts(run, losses, limits)
    judged = with_verdicts(sparse, list(verdicts.values()), run.n_compared)
    return RunResults(
        run=run,
        models=(*judge([dense], Tolerance()), *judged),
        tolerance=limits,
        search=results.search(run.key) if run.find is not None else None,
        name=name,
        missing=missing,
        judge_tasks=partial(results.answers.of_run, run, limits),
    )


def verdict_of(results: RunResults, dense: Record, right: Record) -> ToleranceVerdict:
    """The verdict on a model against a dense one: among all of the run's, or by itself where it is
    none of these.
    """
    models = results.sparse_models if dense.key == results.dense.key else ()
    for model in models:
        if model.record.key == right.key:
            return model.verdict
    return judge_all([record_losses(dense, right)], results.tolerance)[0]


def difference_of(
    results: RunResults, first: Record, right: Record
) -> LikelihoodDifference:
    """How the right model differs from a sparse left one: as in the run's race, or else by
    itself.
    """
    best = results.headline
    for rival, difference in results.race:
        keys = (best.key, rival.record.key) if best else ()
        if keys == (first.key, right.key):
            return difference
        if keys == (right.key, first.key):
            return replace(
                difference,
                value=-difference.value,
                low=-difference.high,
                high=-difference.low,
            )
    return likelihood_differences([(first, right)])[0]
