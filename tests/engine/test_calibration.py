"""Statistics equal what a plain forward pass shows, and survive packing."""

import pytest
import torch

from sparsedash.engine.calibration import (
    HELD_OUT_EVERY,
    add_second_moment_,
    calibrate,
    calibration_sequences,
    few_tokens_warning,
)
from sparsedash.engine.corpora import Texts
from sparsedash.errors import CalibrationError
from sparsedash.progress import ignore_steps
from sparsedash.settings import CalibrationSettings
from tests.engine.conftest import passages


def _statistics(loaded, sequences):
    kept = {}
    calibrate(loaded, sequences, kept.__setitem__, ignore_steps)
    return kept


def test_second_moments_and_means_equal_those_of_a_plain_forward(loaded):
    sequences = [loaded.tokenizer(text).input_ids for text in passages(20)]
    inputs: list[list[torch.Tensor]] = [[] for _ in loaded.mlps]
    hooks = [
        mlp.out.register_forward_pre_hook(lambda _, args, i=i: inputs[i].append(args[0][0]))
        for i, mlp in enumerate(loaded.mlps)
    ]
    for ids in sequences:
        loaded.model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()

    for index, known in _statistics(loaded, sequences).items():
        fit = [x for i, x in enumerate(inputs[index]) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
        x = torch.cat(fit).double()
        assert known.n_tokens == len(x)
        assert torch.allclose(known.second_moment.double(), x.T @ x / len(x), rtol=1e-3, atol=1e-4)
        assert torch.allclose(known.mean.double(), x.mean(dim=0), rtol=1e-3, atol=1e-4)
        assert torch.equal(known.second_moment, known.second_moment.T)
        assert torch.allclose(known.held_out, inputs[index][HELD_OUT_EVERY - 1], atol=1e-4)


@pytest.mark.parametrize("width", [1, 5, 512, 700])
def test_the_lower_triangle_is_complete(width):
    x = torch.randn(9, width)
    moment = torch.zeros(width, width)
    add_second_moment_(moment, x)
    add_second_moment_(moment, x)
    assert torch.allclose(moment.tril(), (2 * x.T @ x).tril(), atol=1e-4)


def _sequences(loaded, texts, running=False, **settings):
    return calibration_sequences(
        loaded,
        Texts(texts=tuple(texts), identity="t", running=running),
        CalibrationSettings(corpus="t", **settings),
    )


def test_documents_are_cut_to_length_and_the_budget_is_kept(loaded):
    chosen = _sequences(loaded, passages(50), n_samples=4, length=20)
    assert sum(map(len, chosen)) <= 80
    assert sum(map(len, chosen)) > 60
    assert max(map(len, chosen)) <= 20


def test_a_running_text_is_cut_into_whole_pieces_in_a_drawn_order(loaded):
    text = [" ".join(passages(30))]
    first = _sequences(loaded, text, running=True, n_samples=5, length=16)
    assert [len(piece) for piece in first] == [16] * 5
    assert first == _sequences(loaded, text, running=True, n_samples=5, length=16)
    assert first != _sequences(loaded, text, running=True, n_samples=5, length=16, seed=1)


def test_too_few_tokens_are_refused_and_few_are_told(loaded):
    width = loaded.mlps[0].width
    with pytest.raises(CalibrationError, match="too few"):
        few_tokens_warning(loaded, 3 * width)
    assert "8 tokens a channel" in (few_tokens_warning(loaded, 8 * width) or "")
    assert few_tokens_warning(loaded, 24 * width) is None
