"""Statistics equal those of a plain forward pass, and survive packing."""

from dataclasses import replace
from itertools import chain
from typing import get_args

import pytest
import torch

from sparsedash.catalog.resources import HELD_OUT_EVERY
from sparsedash.engine.calibration import statistics
from sparsedash.engine.calibration.statistics import (
    TOKEN_WEIGHTS,
    few_tokens_warning,
    pack_statistics,
    statistics_walk,
    unpack_statistics,
)
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.engine.pruning.linalg import add_second_moment_, mirror_lower_
from sparsedash.engine.texts.corpora import Texts, calibration_sequences
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings, TokenWeights
from tests.engine.calibration.plain_forward import WEIGHTS, seen_by
from tests.engine.conftest import passages
from tests.engine.tiny import seeded, tiny_loaded, tiny_tokenizer


def _statistics(loaded, sequences, token_weights="equal"):
    blocks = []
    walk = statistics_walk(
        loaded,
        lambda: sequences,
        [[mlp.out] for mlp in loaded.mlps],
        lambda index, statistics: blocks.extend(statistics),
        ignore_steps,
        token_weights=token_weights,
    )
    walk.reach(len(loaded.blocks) - 1)
    return blocks


def test_every_way_to_weigh_tokens_can_be_asked_for():
    assert set(TOKEN_WEIGHTS) == set(WEIGHTS) == set(get_args(TokenWeights))


@pytest.mark.parametrize("token_weights", WEIGHTS)
def test_second_moments_and_means_equal_those_of_a_plain_forward(loaded, token_weights):
    sequences = [loaded.tokenizer(text).input_ids for text in passages(20)]
    inputs, streams = seen_by(loaded, sequences)
    for index, block in enumerate(_statistics(loaded, sequences, token_weights)):
        weights = [WEIGHTS[token_weights](stream) for stream in streams[index]]
        held_out_inputs = inputs[index].pop(HELD_OUT_EVERY - 1)
        held_out_weights = weights.pop(HELD_OUT_EVERY - 1)
        x = torch.cat(inputs[index]).double()
        w = torch.cat(weights).double()[:, None]
        mean = (w * x).sum(dim=0) / w.sum()
        covariance = x.T @ (w * x) / w.sum() - torch.outer(mean, mean)
        assert block.n_tokens == len(x)
        assert torch.allclose(
            block.covariance.double(),
            covariance,
            rtol=1e-3,
            atol=1e-4,
        )
        assert torch.allclose(
            block.mean.double(),
            mean,
            rtol=1e-3,
            atol=1e-4,
        )
        assert torch.equal(block.covariance, block.covariance.T)
        assert torch.allclose(
            block.held_out.inputs,
            held_out_inputs,
            atol=1e-4,
        )
        assert torch.allclose(
            block.held_out.weights,
            held_out_weights,
            rtol=1e-3,
        )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("token_weights", ["equal", "by token"])
def test_a_variance_is_right_where_the_mean_is_a_thousand_times_the_deviation(
    whole, token_weights
):
    draw = seeded(0)
    x = 1000 + torch.randn(
        8,
        4,
        512,
        2,
        generator=draw,
        dtype=torch.float64,
    )
    # The first batch is three deviations off.
    x[0] += 3
    x[..., 1] *= 0.01
    x = x.float()
    weights = torch.ones(8, 4, 512)
    if token_weights == "by token":
        weights = torch.rand(8, 4, 512, generator=draw) + 0.1
    sums = statistics._RunningSums(
        torch.device("cpu"),
        1.0,
        whole=whole,
    )
    everything = torch.ones(4, 512, dtype=bool)
    for batch, weight in zip(x, weights, strict=True):
        sums.see(batch)
        sums.add(everything, ~everything, weight)
    rows = x.reshape(-1, 2).double()
    shares = (weights.double() / weights.double().sum()).reshape(-1, 1)
    mean = (shares * rows).sum(dim=0)
    variance = (shares * (rows - mean).square()).sum(dim=0)
    assert sums.statistics().variances.tolist() == pytest.approx(
        variance.tolist(), rel=1e-3
    )
    assert sums.statistics().mean.tolist() == pytest.approx(mean.tolist(), rel=1e-6)


def test_first_tokens_are_kept_among_the_held_out_ones_no_more_often_than_others(
    monkeypatch,
):
    monkeypatch.setattr(statistics, "HELD_OUT_TOKENS", 256)
    sums = statistics._RunningSums(
        torch.device("cpu"),
        1 / 4,
        whole=True,
    )
    places = torch.arange(64.0).repeat(16, 1)
    for _ in range(4):
        sums.see(places[..., None])
        sums.add(places < 0, places >= 0, torch.ones_like(places))
    kept = torch.cat([rows for rows, _ in sums._held_out]).flatten()
    assert 900 < len(kept) < 1150
    assert (kept % 4).unique(return_counts=True)[1].min() > 200


@pytest.mark.parametrize("width", [1, 5, 512, 513, 700])
def test_a_second_moment_is_summed_in_its_lower_triangle_and_mirrored_in_its_place(
    width,
):
    x = torch.randn(9, width)
    moment = torch.zeros(width, width)
    add_second_moment_(moment, x)
    add_second_moment_(moment, x)
    mirrored = mirror_lower_(moment)
    assert torch.allclose(mirrored, 2 * x.T @ x, atol=1e-4)
    assert torch.equal(mirrored, mirrored.T)
    assert mirrored.data_ptr() == moment.data_ptr()


def _sequences(loaded, texts, running=False, **settings):
    corpus = Texts(
        texts=tuple(texts),
        identity="t",
        running=running,
    )
    return calibration_sequences(
        loaded, corpus, CalibrationSettings(corpus="t", **settings)
    )


def test_documents_are_cut_to_length_and_the_budget_is_kept(loaded):
    chosen = _sequences(
        loaded,
        passages(50),
        n_samples=4,
        length=20,
    )
    assert 60 < sum(map(len, chosen)) <= 80
    assert max(map(len, chosen)) <= 20


def test_packed_documents_are_the_same_tokens_in_full_sequences(loaded):
    apart = _sequences(
        loaded,
        passages(50),
        n_samples=8,
        length=24,
    )
    packed = _sequences(
        loaded,
        passages(50),
        n_samples=8,
        length=24,
        packed=True,
    )
    assert list(chain(*packed)) == list(chain(*apart))
    assert {len(ids) for ids in packed[:-1]} == {24}
    assert 2 <= len(packed[-1]) <= 24
    assert min(map(len, apart)) < 24


def test_a_running_text_is_cut_into_whole_pieces_in_a_drawn_order(loaded):
    text = [" ".join(passages(30))]
    first = _sequences(
        loaded,
        text,
        running=True,
        n_samples=5,
        length=16,
    )
    assert [len(piece) for piece in first] == [16] * 5
    assert first == _sequences(
        loaded,
        text,
        running=True,
        n_samples=5,
        length=16,
    )
    assert first != _sequences(
        loaded,
        text,
        running=True,
        n_samples=5,
        length=16,
        seed=1,
    )


def test_each_piece_of_a_running_text_begins_as_every_text_does():
    loaded = replace(tiny_loaded("llama"), tokenizer=tiny_tokenizer("<|end|> $A"))
    text = " ".join(passages(30))
    pieces = _sequences(
        loaded,
        [text],
        running=True,
        n_samples=200,
        length=16,
    )
    prefix, ids = loaded.prefix_and_ids(text)
    expected = [prefix + ids[start : start + 15] for start in range(0, len(ids), 15)]
    assert sorted(pieces) == sorted(piece for piece in expected if len(piece) == 16)
    assert loaded.windows([*prefix, 7], 16) == loaded.windows([7], 16) == [[*prefix, 7]]


def test_far_too_few_tokens_are_refused_and_too_few_a_warning(loaded):
    width = loaded.mlps[0].width
    with pytest.raises(CalibrationError, match="too few"):
        few_tokens_warning(
            loaded,
            3 * width,
            solves=True,
        )
    assert "too few to refit" in (
        few_tokens_warning(
            loaded,
            3 * width,
            solves=False,
        )
        or ""
    )
    for solves in (False, True):
        assert "8 calibration tokens per channel" in (
            few_tokens_warning(
                loaded,
                8 * width,
                solves=solves,
            )
            or ""
        )
        assert (
            few_tokens_warning(
                loaded,
                24 * width,
                solves=solves,
            )
            is None
        )


@pytest.mark.parametrize("token_weights", ["equal", "residual"])
def test_of_too_few_tokens_only_the_diagonal_is_collected(
    loaded, monkeypatch, token_weights
):
    sequences = _sequences(
        loaded,
        passages(50),
        n_samples=20,
        length=24,
    )
    monkeypatch.setattr(statistics, "enough_tokens", lambda *_: True)
    whole = _statistics(loaded, sequences, token_weights)
    monkeypatch.setattr(statistics, "enough_tokens", lambda *_: False)
    diagonal = _statistics(loaded, sequences, token_weights)
    for full, block in zip(whole, diagonal, strict=True):
        assert full.is_whole
        assert not block.is_whole
        assert torch.allclose(
            full.mean_squares,
            block.mean_squares,
            rtol=1e-4,
        )
        assert torch.equal(full.mean, block.mean)
        assert torch.equal(full.held_out.inputs, block.held_out.inputs)


@pytest.mark.parametrize(
    ("width", "whole"), [(1, True), (2, True), (7, True), (8, True), (6, False)]
)
def test_packed_statistics_come_back_to_the_bit(width, whole):
    x = torch.randn(20, width)
    held_out = Sample(inputs=x[:3], weights=torch.rand(3))
    covariance = x.T @ x if whole else x.square().sum(0)
    known = Statistics(
        covariance=covariance,
        mean=x.mean(0),
        held_out=held_out,
        n_tokens=20,
    )
    back = unpack_statistics(pack_statistics(known))
    assert back.is_whole is whole and back.n_tokens == 20
    expected = covariance.tril() + covariance.tril(-1).T if whole else covariance
    assert torch.equal(back.covariance, expected)
    assert torch.equal(back.mean, known.mean)
    assert torch.equal(back.held_out.inputs, held_out.inputs)
    assert torch.equal(back.held_out.weights, held_out.weights)
