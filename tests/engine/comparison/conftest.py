"""A finished run over one tiny model, one over another, and what is in memory of them."""

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.text_comparison import (
    continue_prompt,
    measure_divergence,
)
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny, small_run

PROMPT = "the lamp and the boat and"


def settings_of(folder, text, sparsities=(250, 500), **changes):
    text = f"file:{text}"
    return small_run(
        folder,
        text,
        f"{text}[20:]",
        n_passages=3,
        sparsities_permille=sparsities,
        **changes,
    )


@pytest.fixture(scope="package")
def runs(tmp_path_factory):
    """A store with a run of one tiny model, its runs by single weights, and one of another model in
    bfloat16.
    """
    folder = tmp_path_factory.mktemp("runs")
    text = write_jsonl(folder / "passages.jsonl", passages(60))
    store = Store(folder / "data")
    first = save_tiny(folder / "one")
    second_model = save_tiny(folder / "other", "gpt2", seed=5)
    settings = (
        settings_of(first, text),
        settings_of(second_model, text, dtype="bfloat16"),
        settings_of(
            first,
            text,
            sparsities=(500,),
            methods=(method_named("wanda"),),
        ),
    )
    yield store, *(pipeline.run(run_settings, store) for run_settings in settings)
    store.close()


def continuation_request(left="l", right="r", prompt=PROMPT, n_tokens=6, **more):
    return ContinuationSettings(
        left=left,
        right=right,
        prompt=prompt,
        n_tokens=n_tokens,
        **more,
    )


class House:
    """The runs, and the models that are in memory."""

    def __init__(self, runs, **room):
        self.store, self.run, self.other, self.masked = runs
        self.dense = self.run.dense
        self.sparse = self.run.sparse
        self.cache = ModelPairCache(ModelCache(), **room)

    def write(
        self, left, right, on_step=ignore_steps, on_text=lambda *_: None, **settings
    ):
        return continue_prompt(
            continuation_request(left, right, **settings),
            self.store,
            self.cache,
            on_step,
            on_text,
        )

    def models(self, *keys):
        return self.cache.models(keys, self.store, ignore_steps)

    def diverge(self, right, text):
        settings = DivergenceSettings(
            left=self.dense,
            right=right,
            text=text,
        )
        return measure_divergence(settings, self.store, self.cache)


@pytest.fixture
def house(runs):
    return House(runs)
