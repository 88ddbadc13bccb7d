"""The refit on the sparse model's own activations."""

from copy import deepcopy

import pytest
import torch

from sparsedash.engine.calibration import sequential_refit
from sparsedash.engine.models.decoder_blocks import batches_by_length
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import CONFIGS, as_loaded, seeded, tiny_loaded

NORMED = ("gemma2", "gemma3_text", "olmo2")


def sequences(n=40, length=20):
    drawn = torch.randint(
        1,
        400,
        (n, length),
        generator=seeded(0),
    )
    return [ids[: length - row % 5].tolist() for row, ids in enumerate(drawn)]


def refit(
    loaded,
    kept,
    strength=0.5,
    text=None,
    on_step=ignore_steps,
):
    """The refits by block of the model with these channels."""
    return dict(
        sequential_refit.refit_sequentially(
            loaded,
            text or sequences(),
            kept,
            0.01,
            strength,
            on_step,
        )
    )


def channels(loaded, share=0.75):
    return [torch.arange(int(mlp.width * share)) for mlp in loaded.mlps]


def same(refits, others):
    """Whether the weights of each block are equal."""
    return [
        torch.equal(refits[i].out_weight, others[i].out_weight)
        for i in range(len(refits))
    ]


def batches(text):
    budget = sequential_refit.BATCH_TOKENS
    return [
        batch for _, batch in batches_by_length(text, budget, 0, torch.device("cpu"))
    ]


@pytest.fixture(
    scope="module",
    params=["llama", "gptj", "opt"],
)
def tiny(request):
    return tiny_loaded(request.param)


def test_if_nothing_is_removed_nothing_changes(tiny):
    steps = []
    refits = refit(
        tiny,
        channels(tiny, 1.0),
        1.0,
        on_step=steps.append,
    )
    assert [step.done for step in steps] == list(range(steps[-1].total + 1))
    for index, mlp in enumerate(tiny.mlps):
        assert torch.allclose(
            refits[index].out_weight,
            out_weight(mlp),
            atol=1e-4,
        )
        if mlp.out.bias is not None:
            assert torch.allclose(
                refits[index].out_bias,
                mlp.out.bias,
                atol=1e-3,
            )


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16],
    ids=str,
)
def test_the_refitted_model_is_closer_to_the_dense_one(tiny, dtype):
    loaded = as_loaded(deepcopy(tiny.model).to(dtype))
    kept = channels(loaded)
    cut = []
    for mlp, mlp_kept in zip(loaded.mlps, kept, strict=True):
        cut.append(PrunedMlp(mlp_kept, out_weight(mlp)[:, mlp_kept], mlp.out.bias))

    def last_hidden():
        return [loaded.model.base_model(torch.tensor([ids]))[0] for ids in sequences()]

    dense = last_hidden()

    def distance(narrowed):
        with pruned(loaded.mlps, narrowed):
            sparse = last_hidden()
        return sum(
            float((s - d).square().sum()) for s, d in zip(sparse, dense, strict=True)
        )

    assert distance(list(refit(loaded, kept).values())) < 0.8 * distance(cut)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_only_a_block_that_adds_its_output_as_it_is_aims_at_the_stream(architecture):
    loaded = tiny_loaded(architecture)
    half = as_loaded(deepcopy(loaded.model).bfloat16())
    normed = architecture in NORMED
    adds = not normed and architecture != "granite"
    batch = batches(sequences())[0]
    assert sequential_refit._joins(loaded, batch) == (adds, normed)
    assert sequential_refit._joins(half, batch) == (adds, normed)
    kept = channels(loaded)
    unaffected = same(refit(loaded, kept, 0.0), refit(loaded, kept, 1.0))
    # Before the first block nothing is lost that could be made up for.
    assert not any(unaffected[1:]) if adds else all(unaffected)


def test_a_stream_that_is_normed_after_the_sum_is_not_aimed_at():
    loaded = tiny_loaded("opt", do_layer_norm_before=False)
    assert sequential_refit._joins(loaded, batches(sequences())[0]) == (False, False)


@pytest.mark.parametrize("architecture", ["gemma2", "granite", "llama"])
def test_after_a_removed_layer_only_a_block_that_adds_its_output_as_it_is_is_refitted(
    architecture,
):
    loaded = tiny_loaded(architecture)
    kept = [torch.arange(0), *channels(loaded, 1.0)[1:]]
    refits = refit(loaded, kept)
    for index, mlp in enumerate(loaded.mlps[1:], 1):
        unchanged = torch.equal(refits[index].out_weight, out_weight(mlp))
        assert unchanged is (architecture != "llama")


def test_held_out_sequences_decide_nothing(tiny):
    kept = channels(tiny)

    def changed(*rows):
        text = sequences()
        for row in rows:
            text[row] = [token + 1 for token in text[row]]
        return refit(tiny, kept, text=text)[0].out_weight

    first = refit(tiny, kept)[0].out_weight
    assert torch.allclose(first, changed(15, 31), atol=1e-5)
    assert not torch.allclose(first, changed(0), atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_the_stream_that_is_walked_is_the_sparse_model_s(architecture, monkeypatch):
    """Also where a family norms the MLP's output, or adds it to attention's."""
    loaded = tiny_loaded(architecture)
    walks = []
    walk = LoadedModel.walk

    def walking(*arguments):
        walks.append(walk(*arguments))
        return walks[-1]

    monkeypatch.setattr(LoadedModel, "walk", walking)
    refits = refit(loaded, channels(loaded))
    sparse_walk = walks[1]
    text = batches(sequences())
    with torch.no_grad(), pruned(loaded.mlps, list(refits.values())):
        again = walk(loaded, text)
        for index in range(len(loaded.blocks)):
            list(again.step(index))
    for walked, expected, batch in zip(
        sparse_walk.hidden,
        again.hidden,
        text,
        strict=True,
    ):
        real = batch.mask.bool()
        assert torch.allclose(
            walked[real],
            expected[real],
            rtol=1e-4,
            atol=1e-4,
        )
