"""Single weights pruned in sequence: all that the scope names, each block by what the sparse blocks
before it give.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration.sequential_pruning import prune_sequentially
from sparsedash.engine.calibration.statistics import WalkCheckpoint, shared_inputs
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.pruning.surgery import reweighted, weight_of
from sparsedash.schema.progress import ignore_steps
from sparsedash.storage.store import StageCheckpoint
from tests.engine.tiny import CONFIGS, tiny_loaded

METHOD = method_named("sparsegpt")
TEXT = torch.randint(1, 400, (40, 20), generator=torch.Generator().manual_seed(0)).tolist()


def pruned(loaded, store, method=METHOD, on_step=ignore_steps):
    checkpoint = WalkCheckpoint(StageCheckpoint(store, "tiny"), "key", lambda index: True)
    more = {"token_weights": "equal", "on_step": on_step, "checkpoint": checkpoint}
    made = prune_sequentially(loaded, TEXT, method, 500, shared=shared_inputs(loaded), **more)
    return [block for _, block in made]


@pytest.mark.parametrize("scope", ["mlp", "decoder"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_half_of_every_projection_that_the_scope_names_is_zero(model_type, scope, store):
    loaded, steps = tiny_loaded(model_type), []
    found = pruned(loaded, store, replace(METHOD, scope=scope), steps.append)
    for block, own in zip(loaded.projections(scope), found, strict=True):
        # Some families have projections that they never call.
        assert own.weights.keys() <= block.keys() and set(loaded.family.mlp) <= own.weights.keys()
        assert all(
            float((w == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
            for w in own.weights.values()
        )
    assert [step.done for step in steps] == list(range(steps[-1].total + 1))


def test_a_block_is_fitted_to_what_the_sparse_blocks_before_it_give(store):
    loaded, ids = tiny_loaded("llama"), torch.tensor(TEXT)
    found, blocks, last = (
        pruned(loaded, store),
        loaded.projections("decoder"),
        len(loaded.blocks) - 1,
    )
    inputs, (name, module) = [], next(iter(blocks[last].items()))
    with (
        reweighted(blocks[:last], [own.weights for own in found[:last]]),
        capture_inputs([module], [inputs.append]),
    ):
        loaded.model.base_model(ids)
    before = weight_of(module).detach().clone()
    # Compensation is worth something on these inputs: less is lost than by the same zeros alone.
    sparse = found[last].weights[name]
    kept = before.masked_fill(sparse == 0, 0)
    lost, bare = (float(((inputs[0] @ (w - before).T) ** 2).sum()) for w in (sparse, kept))
    assert lost < 0.9 * bare
