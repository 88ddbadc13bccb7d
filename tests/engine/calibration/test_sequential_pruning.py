"""Single weights pruned in sequence, each block on the activations of the sparse blocks before it."""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration.sequential_pruning import prune_sequentially
from sparsedash.engine.calibration.statistics import WalkCheckpoint, shared_inputs
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.pruning.surgery import reweighted, weight_of
from sparsedash.schema.progress import ignore_steps
from sparsedash.storage.checkpoint import StageCheckpoint
from tests.engine.tiny import CONFIGS, seeded, tiny_loaded

METHOD = method_named("sparsegpt")
TEXT = torch.randint(
    1,
    400,
    (40, 20),
    generator=seeded(0),
).tolist()


def pruned(loaded, store, method=METHOD, on_step=ignore_steps):
    blocks = prune_sequentially(
        loaded,
        TEXT,
        method,
        500,
        shared=shared_inputs(loaded),
        token_weights="equal",
        on_step=on_step,
        checkpoint=WalkCheckpoint(
            StageCheckpoint(store, "tiny"), "key", lambda index: True
        ),
    )
    return [block for _, block in blocks]


@pytest.mark.parametrize("scope", ["mlp", "decoder"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_half_of_every_projection_that_the_scope_names_is_zero(
    model_type, scope, store
):
    loaded = tiny_loaded(model_type)
    steps = []
    sparse = pruned(loaded, store, replace(METHOD, scope=scope), steps.append)
    for dense, block in zip(
        loaded.projections(scope),
        sparse,
        strict=True,
    ):
        # Some families have projections that they never call.
        assert (
            set(loaded.structure.mlps[0].paths) <= block.weights.keys() <= dense.keys()
        )
        for weight in block.weights.values():
            assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert [step.done for step in steps] == list(range(steps[-1].total + 1))


def test_a_block_is_fitted_to_the_activations_of_the_sparse_blocks_before_it(store):
    loaded = tiny_loaded("llama")
    *earlier, last = pruned(loaded, store)
    *earlier_projections, projections = loaded.projections("decoder")
    name, module = next(iter(projections.items()))
    inputs = []
    with (
        reweighted(earlier_projections, [block.weights for block in earlier]),
        capture_inputs([module], [inputs.append]),
    ):
        loaded.model.base_model(torch.tensor(TEXT))
    dense = weight_of(module).detach()
    sparse = last.weights[name]

    def lost(weight):
        return float(((inputs[0] @ (weight - dense).T) ** 2).sum())

    # Less than by the same zeros alone.
    assert lost(sparse) < 0.9 * lost(dense.masked_fill(sparse == 0, 0))
