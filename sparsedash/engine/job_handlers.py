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
    """One job for the engine.

    key: of the result. settings: plain, of the kind's own class. on_step, on_text: called with progress. with_token:
    whether the hub may be used with this account's token.
    """

    key: str
    settings: Mapping[str, Any]
    store: Store
    on_step: OnStep
    on_text: OnText
    with_token: bool = True


JobHandler = Callable[[JobTask], object]
"""Runs a task and leaves its result in the store; raises SparseDashError and others."""


def load_job_handlers() -> Mapping[str, JobHandler]:
    """The handler of every kind of job; the last models stay loaded from job to job. Imports torch."""
    from sparsedash.engine.comparison.model_pair import ModelPairCache
    from sparsedash.engine.comparison.text_comparison import continue_prompt, measure_divergence
    from sparsedash.engine.comparison.timing import time_models
    from sparsedash.engine.export.export import export_model
    from sparsedash.engine.models.hub import token_used
    from sparsedash.engine.models.loading import ModelShelf
    from sparsedash.engine.run import pipeline
    from sparsedash.engine.run.find_sparsity import find_sparsity

    shelf = ModelShelf()
    pairs = ModelPairCache(shelf)

    def handler(kind: type[S], do: Callable[[S, JobTask], object], *, pair: bool = False) -> JobHandler:
        """pair: whether the two models of a pair stay in memory, which only prompts and timings need."""

        def handle(task: JobTask) -> object:
            if not pair:
                pairs.let_go()
            with token_used(task.with_token):
                return do(settings_from_plain(kind, task.settings), task)

        return handle

    return {
        "run": handler(RunSettings, lambda s, t: pipeline.run(s, t.store, t.on_step, shelf, run_key=t.key)),
        "part": handler(PartSettings, lambda s, t: pipeline.run_part(s, t.store, t.on_step, shelf)),
        "find": handler(FindSettings, lambda s, t: find_sparsity(s, t.store, t.on_step, shelf, run_key=t.key)),
        "export": handler(ExportSettings, lambda s, t: export_model(s, t.store, shelf, t.on_step)),
        "continuation": handler(
            ContinuationSettings, lambda s, t: continue_prompt(s, t.store, pairs, t.on_step, t.on_text), pair=True
        ),
        "divergence": handler(
            DivergenceSettings, lambda s, t: measure_divergence(s, t.store, pairs, t.on_step), pair=True
        ),
        "verify": handler(VerifySettings, lambda s, t: t.store.put(t.key, verify(t.store, t.on_step)), pair=True),
        "timing": handler(TimingSettings, lambda s, t: time_models(s, t.store, pairs, t.on_step), pair=True),
    }
