"""The field's figures of divergence, beside an independent computation."""

import numpy as np
import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.divergence_figures import (
    divergence_figures,
    judge_perplexity,
    printed_figures,
    token_divergences,
)
from tests.llama_files import drawn_models, log_softmax


def blocks_of(tokens, base, near):
    blocks = []
    for chunk in range(len(tokens)):
        rows = slice(tokens.shape[1] // 2, tokens.shape[1] - 1)
        blocks.append(
            token_divergences(
                log_softmax(base[chunk, rows]),
                log_softmax(near[chunk, rows]),
                tokens[chunk, tokens.shape[1] // 2 + 1 :],
            )
        )
    return blocks


def test_a_divergence_by_hand():
    base = np.log([[0.5, 0.25, 0.25]])
    near = np.log([[0.25, 0.5, 0.25]])
    tokens = token_divergences(base, near, np.array([1]))
    assert tokens.kl == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert (tokens.base_nll, tokens.nll) == (
        pytest.approx(np.log(4)),
        pytest.approx(np.log(2)),
    )
    assert not tokens.same_top[0]


def test_figures_equal_an_independent_computation():
    tokens, base, near = drawn_models()
    figures = divergence_figures(blocks_of(tokens, base, near))
    kl = []
    delta = []
    nll = [[], []]
    same = 0
    for chunk in range(40):
        for place in range(32, 63):
            p = np.exp(base[chunk, place]) / np.exp(base[chunk, place]).sum()
            q = np.exp(near[chunk, place]) / np.exp(near[chunk, place]).sum()
            right = tokens[chunk, place + 1]
            kl.append(np.sum(p * np.log(p / q)))
            delta.append(q[right] - p[right])
            nll[0].append(-np.log(p[right]))
            nll[1].append(-np.log(q[right]))
            same += p.argmax() == q.argmax()
    assert (figures.n_tokens, figures.n_blocks) == (40 * 31, 40)
    assert figures.kl.value == pytest.approx(np.mean(kl), rel=1e-5)
    assert figures.kl_max == pytest.approx(max(kl), rel=1e-5)
    for q in (0.5, 0.9, 0.95, 0.99):
        assert figures.kl_quantiles[q] == pytest.approx(
            np.percentile(kl, 100 * q), rel=1e-5
        )
    assert figures.kl_quantiles[0.999] is None
    assert figures.delta.value == pytest.approx(np.mean(delta))
    assert figures.delta_rms.value == pytest.approx(np.sqrt(np.mean(np.square(delta))))
    assert figures.delta_quantiles[0.01] == pytest.approx(np.percentile(delta, 1))
    assert figures.same_top.value == same / 1240
    assert figures.perplexity == pytest.approx(np.exp(np.mean(nll[1])))
    assert figures.ratio.value == pytest.approx(
        np.exp(np.mean(nll[1]) - np.mean(nll[0]))
    )
    by_block = np.array(kl).reshape(40, 31).mean(axis=1)
    assert figures.kl.error == pytest.approx(
        by_block.std(ddof=1) / np.sqrt(40), rel=1e-4
    )


def test_a_quantile_needs_ten_tokens_beyond_it_and_an_error_two_blocks():
    tokens, base, near = drawn_models(n_chunk=1, n_ctx=202)
    figures = divergence_figures(blocks_of(tokens, base, near))
    assert figures.n_tokens == 100
    known = [q for q, value in figures.kl_quantiles.items() if value is not None]
    assert known == [0.5, 0.9]
    assert (figures.kl.error, figures.delta_quantiles[0.95]) == (None, None)


def test_the_rise_of_perplexity_is_judged_over_blocks():
    tokens, base, near = drawn_models(n_chunk=60, noise=0.3)
    verdicts = []
    far = drawn_models(n_chunk=60, noise=3.0)[2]
    for logits in (base, near, far):
        blocks = blocks_of(tokens, base, logits)
        verdicts.append(
            judge_perplexity({"": blocks}, Tolerance(ratio=1.2), {})[""].verdict
        )
    assert verdicts == ["within", "within", "beyond"]
    few = blocks_of(*drawn_models(n_chunk=20, noise=0.0))
    assert judge_perplexity({"few": few}, Tolerance(), {})["few"].verdict == "undecided"


def test_several_models_share_the_chance_of_error():
    tokens, base, near = drawn_models(n_chunk=60, noise=0.3)
    blocks = blocks_of(tokens, base, near)
    alone = judge_perplexity({"one": blocks}, Tolerance(ratio=1.001), {})
    together = judge_perplexity(
        {"one": blocks, "two": blocks}, Tolerance(ratio=1.001), {}
    )
    assert alone["one"].level == pytest.approx(0.9)
    assert together["one"].level == pytest.approx(0.95)


def test_a_missing_line_of_printed_figures_is_named():
    with pytest.raises(CorpusError, match="has no line Median KLD"):
        printed_figures({"Mean KLD": (0.1, None)})


def test_nothing_is_within_whose_file_cuts_off_more_than_a_token_of_a_thousand():
    tokens, base, near = drawn_models(n_chunk=60, noise=0.3)
    blocks = blocks_of(tokens, base, near)
    verdicts = []
    for n_cut in (1, 2):
        losses = judge_perplexity(
            {"near": blocks}, Tolerance(ratio=1.2), {"near": n_cut}
        )
        verdicts.append(losses["near"].verdict)
    assert (verdicts, 60 * 31) == (["within", "undecided"], 1_860)
