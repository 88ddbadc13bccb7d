"""A run with one sparse model, as far as it is not stored, and then the speed of that model."""

from dataclasses import replace

from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.engine.timing.timing import time_models
from sparsedash.schema.pair_records import Timing
from sparsedash.schema.pair_settings import TimingSettings
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store


def timed_run(settings: RunSettings, request: TimingSettings, store: Store, on_step: OnStep = ignore_steps) -> Timing:
    """The speed of the run's last sparse model. request: what is asked for; its record keys are put in.

    Raises whatever a run or a timing raises.
    """
    shelf = ModelShelf()
    run = pipeline.run(settings, store, on_step, shelf)
    wanted = replace(request, dense=run.dense, sparse=run.sparse[-1])
    return time_models(wanted, store, ModelPairCache(shelf), on_step)
