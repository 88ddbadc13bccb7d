"""Parts of a run that pages share: its report, the pair that its answer names, the passage that broke
worst.
"""

from functools import lru_cache
from typing import NamedTuple

from sparsedash.reporting.deployment import savings
from sparsedash.reporting.html import Html, element, escape, file_name, paragraph
from sparsedash.reporting.next_step import next_step
from sparsedash.reporting.record_pair import Pair, RecordChoice, load_pair
from sparsedash.reporting.run_headline import headline_models
from sparsedash.reporting.run_pictures import model_chip
from sparsedash.reporting.run_reports import continuations_section, html_report
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.task_report import task_sections
from sparsedash.reporting.task_words import tasks_sentence
from sparsedash.reporting.wording import DENSE, file_stem
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend

MAX_CHIPS = 4


class BrokenPassage(NamedTuple):
    """A passage that the dense model answers right and a sparse one does not."""

    context: str
    dense: Outcome
    sparse: Outcome


def headline_pair(backend: Backend, results: RunResults) -> Pair | None:
    """The dense model and the one that the run's answer names; None where a record is lost."""
    record = results.headline
    if record is None:
        return None
    name = results.names[record.key]
    dense = _named(results.dense.key, DENSE)
    sparse = _named(record.key, name)
    return load_pair(backend, dense, sparse, file_name(file_stem(results.run), name))


def _named(key: str, name: str) -> RecordChoice:
    return RecordChoice(key=key, name=name, address=name)


def worst_broken(
    backend: Backend, dense_key: str, sparse_key: str
) -> BrokenPassage | None:
    """The passage that broke with the largest fall of its right word; None where none did."""
    versions = (backend.written_at(dense_key), backend.written_at(sparse_key))
    return _worst_broken(backend, dense_key, sparse_key, versions)


@lru_cache(maxsize=64)
def _worst_broken(
    backend: Backend,
    dense_key: str,
    sparse_key: str,
    versions: tuple[float | None, float | None],
) -> BrokenPassage | None:
    """versions: when both records were written: a changed one is read again."""
    pair = load_pair(backend, _named(dense_key, DENSE), _named(sparse_key, ""))
    if pair is None:
        return None
    passages = pair.texts(backend.passages(pair.left.passages_key))
    broken = pair.kinds(range(len(pair.left.outcomes)))["broke"]
    if passages is None or not broken:
        return None
    position = max(broken, key=pair.fall)
    return BrokenPassage(passages.contexts[position], *pair.outcomes(position))


def headline_chips(backend: Backend, results: RunResults) -> list[Html]:
    """A chip for each model that the headline names, the smallest sparsity first."""
    drawn = []
    named = headline_models(results)[:MAX_CHIPS]
    for model in sorted(named, key=lambda model: model.permille):
        saves = savings(backend, results, model)
        drawn.append(model_chip(model, results.names[model.record.key], saves))
    return drawn


def run_report(
    backend: Backend, results: RunResults, pair: Pair, passages: Passages | None
) -> bytes:
    """The report of the run, with what the models wrote and their answers to tasks."""
    sections = continuations_section(backend, results.run, pair, passages)
    tasks = results.tasks.get(pair.right.key)
    if tasks and tasks.results:
        sections.append(element("h2", escape("Tasks")))
        sections.append(paragraph(tasks_sentence(pair.right_name, tasks.results)))
        sections += task_sections(tasks.results, results.tolerance)
    step = next_step(results, backend.request_rules)
    job = backend.newest_job(results.run.key)
    drawn = headline_chips(backend, results)
    return html_report(results, pair, passages, job, sections, step, drawn)
