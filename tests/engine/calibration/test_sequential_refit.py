"""The refit on the sparse model's own activations: nothing gone is nothing changed, full strength
gets closer.
"""

from copy import deepcopy

import pytest
import torch

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.calibration import sequential_refit
from sparsedash.engine.models.decoder_blocks import batches_by_length
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import as_loaded, tiny_loaded


def refit_sequentially(loaded, sequences, cut, *given):
    kept = [own.kept for own in cut]
    return [
        refitted
        for _, refitted in sequential_refit.refit_sequentially(loaded, sequences, kept, *given)
    ]


@pytest.fixture(scope="module", params=["llama", "gptj", "opt"])
def tiny(request):
    return tiny_loaded(request.param)


def sequences(n=40, length=20):
    drawn = torch.randint(1, 400, (n, length), generator=torch.Generator().manual_seed(0))
    return [ids[: length - i % 5].tolist() for i, ids in enumerate(drawn)]


def narrowed(loaded, share=1.0):
    return [
        PrunedMlp(torch.arange(k), out_weight(mlp)[:, :k], mlp.out.bias)
        for mlp in loaded.mlps
        for k in [int(mlp.width * share)]
    ]


def distance(loaded, made, dense):
    with pruned(loaded.mlps, made):
        sparse = [last_hidden(loaded, ids) for ids in sequences()]
    return sum(float((s - d).square().sum()) for s, d in zip(sparse, dense, strict=True))


def last_hidden(loaded, ids):
    return loaded.model.base_model(torch.tensor([ids]))[0]


def test_where_nothing_goes_nothing_changes(tiny):
    steps = []
    same = refit_sequentially(tiny, sequences(), narrowed(tiny), 0.01, 1.0, steps.append)
    assert [step.done for step in steps] == list(range(steps[-1].total + 1))
    for mlp, narrow in zip(tiny.mlps, same, strict=True):
        assert torch.allclose(narrow.out_weight, out_weight(mlp), atol=1e-4)
        assert mlp.out.bias is None or torch.allclose(narrow.out_bias, mlp.out.bias, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_refitted_model_is_closer_to_the_dense_one(tiny, dtype):
    tiny = as_loaded(deepcopy(tiny.model).to(dtype))
    dense = [last_hidden(tiny, ids) for ids in sequences()]
    cut = narrowed(tiny, 0.75)
    refitted = refit_sequentially(tiny, sequences(), cut, 0.01, 0.5, ignore_steps)
    assert distance(tiny, refitted, dense) < 0.8 * distance(tiny, cut, dense)


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_only_where_a_block_adds_its_output_as_it_is_does_it_aim_at_the_stream(architecture):
    model = tiny_loaded(architecture)
    (_, batch), *_ = batches_by_length(sequences(), sequential_refit.BATCH_TOKENS, 0, "cpu")
    normed = architecture in ("gemma2", "gemma3_text", "olmo2")
    other = normed or architecture == "granite"
    half = as_loaded(deepcopy(model.model).bfloat16())
    assert {sequential_refit._joins(each, batch) for each in (model, half)} == {(not other, normed)}
    texts, cut = sequences(), narrowed(model, 0.75)
    none, full = (
        refit_sequentially(model, texts, cut, 0.01, strength, ignore_steps)
        for strength in (0.0, 1.0)
    )
    same = [
        torch.equal(one.out_weight, other.out_weight) for one, other in zip(none, full, strict=True)
    ]
    # Before the first block nothing is lost that could be made up for.
    assert all(same) if other else not any(same[1:])


def test_a_stream_that_is_normed_after_the_sum_is_not_aimed_at():
    model = tiny_loaded("opt", do_layer_norm_before=False)
    (_, batch), *_ = batches_by_length(sequences(), sequential_refit.BATCH_TOKENS, 0, "cpu")
    assert sequential_refit._joins(model, batch) == (False, False)


@pytest.mark.parametrize("architecture", ["gemma2", "granite", "llama"])
def test_beside_a_layer_that_is_gone_only_a_block_that_adds_its_output_as_it_is_is_refitted(
    architecture,
):
    model = tiny_loaded(architecture)
    kept = [torch.arange(mlp.width if index else 0) for index, mlp in enumerate(model.mlps)]
    refits = dict(
        sequential_refit.refit_sequentially(model, sequences(), kept, 0.01, 0.5, ignore_steps)
    )
    unchanged = [
        torch.equal(refits[index].out_weight, out_weight(model.mlps[index]))
        for index in range(1, len(kept))
    ]
    assert unchanged == [architecture != "llama"] * len(unchanged)


def test_held_out_sequences_decide_nothing(tiny):
    texts, cut = sequences(), narrowed(tiny, 0.75)
    first, second = 15, 31
    other = list(texts)
    for row in (first, second):
        other[row] = [token + 1 for token in texts[row]]
    assert len(texts[first]) == len(other[first])
    once, again = (
        refit_sequentially(tiny, t, cut, 0.01, 0.5, ignore_steps) for t in (texts, other)
    )
    for one, same in zip(once, again, strict=True):
        assert torch.allclose(one.out_weight, same.out_weight, atol=1e-5)
    other[0] = [token + 1 for token in texts[0]]
    changed = refit_sequentially(tiny, other, cut, 0.01, 0.5, ignore_steps)
    assert not torch.allclose(once[0].out_weight, changed[0].out_weight, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_the_stream_that_is_walked_is_the_sparse_models(architecture, monkeypatch):
    """Whatever lies between the MLP and the stream: some families norm its output, some add it to
    attention's.
    """
    model, walks, walk = tiny_loaded(architecture), [], LoadedModel.walk

    def walking(*arguments):
        walks.append(walk(*arguments))
        return walks[-1]

    monkeypatch.setattr(LoadedModel, "walk", walking)
    made = refit_sequentially(model, sequences(), narrowed(model, 0.75), 0.01, 0.5, ignore_steps)
    batches = [
        b for _, b in batches_by_length(sequences(), sequential_refit.BATCH_TOKENS, 0, "cpu")
    ]
    with torch.no_grad(), pruned(model.mlps, made):
        again = walk(model, batches)
        for index in range(len(model.blocks)):
            list(again.step(index))
    for walked, own, batch in zip(walks[1].hidden, again.hidden, batches, strict=True):
        real = batch.mask.bool()
        assert torch.allclose(walked[real], own[real], rtol=1e-4, atol=1e-4)
