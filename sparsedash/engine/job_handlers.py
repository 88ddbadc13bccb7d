"""Job handlers: one function for each kind of job. One row adds a kind.

Importing this module is cheap; torch comes with `load_job_handlers`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.progress import OnStep, OnText
from sparsedash.schema.records import VerifySettings
from sparsedash.schema.settings import FindSettings, PartSettings, RunSettings, S, settings_from_plain
from sparsedash.storage.store import Store
from sparsedash.storage.verification import verify


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """One job as the engine sees it.

    key: what the result is stored under. settings: plain, of the kind's own class. on_step, on_text: hear how far.
    with_token: whether the hub may be asked with the token of whoever runs this program.
    """

    key: str
    settings: Mapping[str, Any]
    store: Store
    on_step: OnStep
    on_text: OnText
    with_token: bool = True


JobHandler = Callable[[JobTask], object]
"""Does a task and leaves its result in the store; raises what is wrong."""


def load_job_handlers() -> Mapping[str, JobHandler]:
    """The work behind every kind of job, with shelves that keep the last models from job to job. Imports torch."""
    from sparsedash.engine.comparison.continuation import continue_prompt
    from sparsedash.engine.comparison.divergence import measure_divergence
    from sparsedash.engine.comparison.model_pair import ModelPairCache
    from sparsedash.engine.comparison.timing import time_models
    from sparsedash.engine.export.export import export_model
    from sparsedash.engine.models.hub import token_used
    from sparsedash.engine.models.loading import ModelShelf
    from sparsedash.engine.run import pipeline
    from sparsedash.engine.run.find_sparsity import find_sparsity

    shelf = ModelShelf()
    pairs = ModelPairCache(shelf)

    def of(kind: type[S], do: Callable[[S, JobTask], object]) -> JobHandler:
        def work(task: JobTask) -> object:
            with token_used(task.with_token):
                return do(settings_from_plain(kind, task.settings), task)

        return work

    def alone(kind: type[S], do: Callable[[S, JobTask], object]) -> JobHandler:
        """Without the models of pairs in memory, which only prompts and timings need."""

        def work(task: JobTask) -> object:
            pairs.let_go()
            return of(kind, do)(task)

        return work

    return {
        "run": alone(RunSettings, lambda asked, t: pipeline.run(asked, t.store, t.on_step, shelf, run_key=t.key)),
        "part": alone(PartSettings, lambda asked, t: pipeline.run_part(asked, t.store, t.on_step, shelf)),
        "find": alone(FindSettings, lambda asked, t: find_sparsity(asked, t.store, t.on_step, shelf, run_key=t.key)),
        "export": alone(ExportSettings, lambda asked, t: export_model(asked, t.store, shelf, t.on_step)),
        "continuation": of(
            ContinuationSettings, lambda asked, t: continue_prompt(asked, t.store, pairs, t.on_step, t.on_text)
        ),
        "divergence": of(DivergenceSettings, lambda asked, t: measure_divergence(asked, t.store, pairs, t.on_step)),
        "verify": of(VerifySettings, lambda asked, t: t.store.put(t.key, verify(t.store, t.on_step))),
        "timing": of(TimingSettings, lambda asked, t: time_models(asked, t.store, pairs, t.on_step)),
    }
