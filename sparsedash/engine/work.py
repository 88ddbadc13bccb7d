"""What a worker can do: one function for each kind of job. One row adds a kind.

Importing this module is cheap; torch comes with `load`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsedash.schema.exports import ExportSettings
from sparsedash.schema.pair_settings import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.progress import OnStep, OnText
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import RunSettings, settings_from_plain
from sparsedash.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Task:
    """One job as the engine sees it.

    key: what the result is stored under. settings: plain, of the kind's own class. on_step, on_text: hear how far.
    """

    key: str
    settings: Mapping[str, Any]
    store: Store
    on_step: OnStep
    on_text: OnText


Work = Callable[[Task], object]
"""Does a task and leaves its result in the store; raises what is wrong."""


def load() -> Mapping[str, Work]:
    """The work behind every kind of job, with shelves that keep the last models from job to job. Imports torch."""
    from sparsedash.engine.comparison import continuation, divergence
    from sparsedash.engine.comparison.model_pair import ModelPairCache
    from sparsedash.engine.export.export import export
    from sparsedash.engine.models.loading import ModelShelf
    from sparsedash.engine.run import pipeline
    from sparsedash.engine.run.find import find
    from sparsedash.engine.timing import timing

    shelf = ModelShelf()
    pairs = ModelPairCache(shelf)

    def run(task: Task) -> object:
        pairs.let_go()
        settings = settings_from_plain(RunSettings, task.settings)
        return pipeline.run(settings, task.store, task.on_step, shelf, run_key=task.key)

    def find_most(task: Task) -> object:
        pairs.let_go()
        settings = settings_from_plain(FindSettings, task.settings)
        return find(settings, task.store, task.on_step, shelf, run_key=task.key)

    def continue_prompt(task: Task) -> object:
        settings = settings_from_plain(ContinuationSettings, task.settings)
        return continuation.continue_prompt(settings, task.store, pairs, task.on_step, task.on_text)

    def measure_divergence(task: Task) -> object:
        settings = settings_from_plain(DivergenceSettings, task.settings)
        return divergence.measure_divergence(settings, task.store, pairs, task.on_step)

    def time_models(task: Task) -> object:
        settings = settings_from_plain(TimingSettings, task.settings)
        return timing.time_models(settings, task.store, pairs, task.on_step)

    def take_away(task: Task) -> object:
        pairs.let_go()
        return export(settings_from_plain(ExportSettings, task.settings), task.store, shelf, task.on_step)

    return {
        "run": run,
        "find": find_most,
        "continuation": continue_prompt,
        "divergence": measure_divergence,
        "timing": time_models,
        "export": take_away,
    }
