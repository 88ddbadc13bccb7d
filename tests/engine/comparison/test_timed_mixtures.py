"""Mixtures with fewer or narrower experts beside their dense model: as small as their files."""

import itertools
from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.model_sizes import (
    decode_ceiling,
    parameter_count,
    prefill_ceiling,
)
from sparsedash.engine.comparison.model_pair import ModelPairCache, both_resident
from sparsedash.engine.comparison.torch_timing import time_models
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.model_making import prune_model
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.run.test_experts import CHANNELS, EXPERTS, tiny_mixture
from tests.engine.tiny import small_run, tiny_tokenizer
from tests.factories import MIXTURE_SHAPE, PER_EXPERT

IDS = torch.tensor([[1, 2, 3, 4, 5]])
TYPES = (
    "qwen3_moe",
    "mixtral",
    "glm4_moe",
    "gpt_oss",
    "qwen2_moe",
    "deepseek_v3",
    "granitemoe",
)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_mixture_is_timed_without_its_removed_experts_and_answers_as_the_run_judged_it(
    model_type, tmp_path
):
    folder = tmp_path / "model"
    tiny_mixture(model_type).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    text = f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(40))}"
    settings = small_run(
        folder,
        text,
        f"{text}[20:]",
        n_passages=3,
        methods=(EXPERTS, CHANNELS),
        sparsities_permille=(500,),
    )
    store = Store(tmp_path / "data")
    run = pipeline.run(settings, store)
    cache = ModelPairCache(ModelCache())
    for key, method in zip(run.sparse, (EXPERTS, CHANNELS), strict=True):
        with (
            cache.models((run.dense, key), store, ignore_steps) as (dense, sparse),
            torch.inference_mode(),
        ):
            model = dense.loaded.model
            kept = store.get(Record, key).pruned.kept
            shape = dense.loaded.shape
            one = replace(settings, methods=(method,))
            context = RunContext(one, store, ignore_steps, ModelCache())
            judged = prune_model(context, one.points[0])
            with judged.applied():
                wanted = judged.loaded.model(IDS).logits
            with both_resident(dense, sparse, torch.float32) as (whole, smaller):
                difference = whole.n_bytes - smaller.n_bytes
                smaller.enter_()
                logits = model(IDS).logits
            untouched = model(IDS).logits
            usual = judged.loaded.model(IDS).logits
        torch.testing.assert_close(logits, wanted)
        torch.testing.assert_close(untouched, usual)
        gone = parameter_count(shape, shape.whole) - parameter_count(shape, kept)
        assert difference <= 4 * gone and difference > 3.9 * gone
        timing = time_models(
            TimingSettings(
                dense=run.dense,
                sparse=key,
                n_prompt=8,
                n_decode=2,
                batches=(1, 8),
                least_rounds=3,
                most_s=1,
            ),
            store,
            cache,
            clock=itertools.count().__next__,
        )
        assert timing.dense_bytes - timing.sparse_bytes == difference
        assert all(phase.ceiling >= 1 for phase in timing.phases)
    store.close()


def test_a_token_reads_as_many_experts_as_before_and_a_batch_may_read_all():
    fewer = replace(MIXTURE_SHAPE.whole, experts=(0, 2, 2))
    ceilings = [
        decode_ceiling(MIXTURE_SHAPE, fewer, batch=n, n_tokens=0) for n in (1, 2, 50)
    ]
    assert prefill_ceiling(MIXTURE_SHAPE, fewer, 8) == 1
    # Two of four experts are chosen for a token; the weights of two more for a batch.
    assert ceilings == [1, 1 + 4 * PER_EXPERT / 50_000, 1 + 4 * PER_EXPERT / 50_000]
