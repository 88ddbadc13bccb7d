"""What a model forgot by kind of text, next to the same divergence computed sequence by
sequence.
"""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from sparsedash.catalog.mixed_text import SOURCES
from sparsedash.catalog.resources import KIND_BLOCK_TOKENS, kind_tokens
from sparsedash.engine.evaluation.kind_losses import KindText
from sparsedash.engine.texts.mixed_sequences import held_out_sequences
from sparsedash.stats.divergence_figures import divergence_figures, token_divergences
from sparsedash.storage.store import Store
from tests.engine.tiny import load_folder


@pytest.fixture
def loaded(model_folder, tmp_path):
    return load_folder(model_folder, Store(tmp_path))


def halved(loaded):
    @contextmanager
    def applied():
        weight = loaded.blocks[1].mlp.down_proj.weight
        before = weight.data
        weight.data = before / 2
        yield
        weight.data = before

    return applied


def log_probabilities(loaded, ids):
    with torch.inference_mode():
        return loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def test_it_is_the_divergence_from_dense_in_pieces_of_each_source(loaded):
    n_run_tokens = 10_000
    n_tokens = kind_tokens(n_run_tokens, len(SOURCES))
    applied = halved(loaded)
    ((losses, _),) = KindText(loaded, n_run_tokens).measure([applied])
    assert [loss.kind for loss in losses] == [source.name for source in SOURCES]
    for source, loss in zip(SOURCES, losses, strict=True):
        expected = []
        for ids in held_out_sequences(loaded, source, n_tokens):
            dense = log_probabilities(loaded, ids)
            with applied():
                sparse = log_probabilities(loaded, ids)
            divergence = (dense.exp() * (dense - sparse)).sum(dim=-1)
            expected += [
                float(piece.mean()) for piece in divergence.split(KIND_BLOCK_TOKENS)
            ]
        assert sorted(loss.blocks) == pytest.approx(sorted(expected), abs=1e-6)
        assert min(loss.blocks) > 0


def test_the_figures_of_the_field_are_those_of_all_kinds_together(loaded):
    n_tokens = kind_tokens(0, len(SOURCES))
    applied = halved(loaded)
    ((_, figures),) = KindText(loaded, 0).measure([applied])
    blocks = []
    for source in SOURCES:
        for ids in held_out_sequences(loaded, source, n_tokens):
            dense = log_probabilities(loaded, ids)[:-1].numpy()
            with applied():
                sparse = log_probabilities(loaded, ids)[:-1].numpy()
            for start in range(0, len(dense), KIND_BLOCK_TOKENS):
                rows = slice(start, start + KIND_BLOCK_TOKENS)
                targets = np.array(ids[1:][rows])
                blocks.append(token_divergences(dense[rows], sparse[rows], targets))
    expected = divergence_figures(blocks)
    assert (figures.n_tokens, figures.n_blocks) == (
        expected.n_tokens,
        expected.n_blocks,
    )
    for name in ("kl", "delta", "delta_rms", "same_top", "ratio"):
        measured = getattr(figures, name)
        assert measured.value == pytest.approx(
            getattr(expected, name).value, rel=1e-3, abs=1e-7
        )
        assert measured.error == pytest.approx(
            getattr(expected, name).error, rel=1e-2, abs=1e-6
        )
    assert figures.kl_quantiles[0.9] == pytest.approx(
        expected.kl_quantiles[0.9], rel=1e-2
    )


def test_the_dense_model_forgot_nothing(loaded):
    (dense, figures), _ = KindText(loaded, 0).measure([nullcontext, halved(loaded)])
    for loss in dense:
        assert max(map(abs, loss.blocks)) <= 1e-6
    assert abs(figures.kl.value) <= 1e-6
    assert figures.same_top.value == 1
    assert figures.ratio.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("n_run_tokens", "expected"), [(0, 128), (45_000, 250), (10**9, 512)]
)
def test_a_twentieth_of_the_run_is_read_between_two_ends(n_run_tokens, expected):
    assert kind_tokens(n_run_tokens, 9) == expected
