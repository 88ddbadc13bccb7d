"""The refit on the sparse model's own activations: nothing gone is nothing changed, full strength gets closer."""

import pytest
import torch

from sparsedash.engine.families import family_named
from sparsedash.engine.models import LoadedModel
from sparsedash.engine.pruning.surgery import Narrowed, out_weight, pruned
from sparsedash.engine.sequential import pack_narrowed, refit_sequentially, unpack_narrowed
from sparsedash.errors import CalibrationError
from sparsedash.progress import ignore_steps
from tests.engine.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module", params=["llama", "gptj", "opt"])
def tiny(request):
    return LoadedModel(
        identity="tiny",
        dtype="float32",
        model=tiny_model(request.param),
        tokenizer=tiny_tokenizer(),
        family=family_named(request.param),
    )


def sequences(n=40, length=20):
    drawn = torch.randint(1, 400, (n, length), generator=torch.Generator().manual_seed(0))
    return [ids[: length - i % 5].tolist() for i, ids in enumerate(drawn)]


def narrowed(loaded, share=1.0):
    return [
        Narrowed(torch.arange(k), out_weight(mlp)[:, :k], mlp.out.bias)
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
    same = refit_sequentially(tiny, sequences(), narrowed(tiny), 0.01, 1.0, ignore_steps)
    for mlp, narrow in zip(tiny.mlps, same, strict=True):
        assert torch.allclose(narrow.out_weight, out_weight(mlp), atol=1e-4)
        assert mlp.out.bias is None or torch.allclose(narrow.out_bias, mlp.out.bias, atol=1e-3)


def test_the_refitted_model_is_closer_to_the_dense_one(tiny):
    dense = [last_hidden(tiny, ids) for ids in sequences()]
    cut = narrowed(tiny, 0.75)
    refitted = refit_sequentially(tiny, sequences(), cut, 0.01, 0.5, ignore_steps)
    assert distance(tiny, refitted, dense) < 0.8 * distance(tiny, cut, dense)


def test_the_same_text_gives_the_same_weights_to_the_bit(tiny):
    cut = narrowed(tiny, 0.75)
    once, again = (
        refit_sequentially(tiny, sequences(), cut, 0.01, 0.5, ignore_steps) for _ in range(2)
    )
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one.out_weight, other.out_weight)


def test_packed_weights_come_back_to_the_bit(tiny):
    cut = narrowed(tiny, 0.5)
    for one, other in zip(unpack_narrowed(pack_narrowed(cut)), cut, strict=True):
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.out_weight, other.out_weight)
        assert (one.out_bias is None) == (other.out_bias is None)
    with pytest.raises(CalibrationError, match="cannot be read"):
        unpack_narrowed(b"no safetensors")
