"""llama.cpp's base files and printed figures."""

from pathlib import Path

import numpy as np
import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.stats.divergence_figures import (
    divergence_figures,
    printed_figures,
    token_divergences,
)
from sparsedash.storage.answers import logit_files
from sparsedash.storage.answers.logit_files import (
    is_logit_file,
    paired_rows,
    printed_divergence,
    read_logit_file,
)
from tests.llama_files import PRINTED, drawn_models, log_softmax, write_logits

PROGRAM_FILES = Path(__file__).parent / "files" / "llama_cpp"
"""Written by llama-perplexity: see make_llama.py there."""


@pytest.fixture
def files(tmp_path):
    tokens, base, near = drawn_models(n_chunk=3)
    return (
        write_logits(tmp_path / "base.kld", tokens, base),
        write_logits(tmp_path / "other.kld", tokens, near),
    )


def test_log_probabilities_are_read_a_few_positions_at_a_time(files, monkeypatch):
    monkeypatch.setattr(logit_files, "_ROWS_VALUES", 1_100)
    base, near = map(read_logit_file, files)
    assert (base.n_vocab, base.tokens.shape, base.n_rows) == (101, (3, 64), 31)
    rows = list(paired_rows(base, near))
    assert [len(row.targets) for row in rows][:4] == [10, 10, 10, 1]
    tokens, logits, _ = drawn_models(n_chunk=3)
    expected = log_softmax(logits[:, 32:63])
    read = np.concatenate([row.base for row in rows]).reshape(3, 31, 101)
    near = expected > expected.max(axis=-1, keepdims=True) - 15.9
    assert np.abs(read - expected)[near].max() < 2e-4
    assert (
        np.concatenate([row.targets for row in rows]).tolist()
        == tokens[:, 33:].ravel().tolist()
    )


def test_files_of_other_texts_or_vocabularies_are_refused(files, tmp_path):
    tokens, base, _ = drawn_models(n_chunk=3)
    changed = tokens.copy()
    changed[0, :5] = (changed[0, :5] + 1) % 101
    for tokens_written, logits, reason in (
        (changed, base, "5 of 192 tokens differ"),
        (tokens[:2], base[:2], "192 tokens of text and x.kld 128"),
        (tokens % 99, base[..., :99], "101 tokens in its vocabulary and x.kld 99"),
    ):
        file = write_logits(tmp_path / "x.kld", tokens_written, logits)
        with pytest.raises(CorpusError, match=reason):
            next(paired_rows(read_logit_file(files[0]), read_logit_file(file)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "cut off"),
        (lambda content: content[:19], "no base file"),
        (lambda content: b"_other__" + content[8:], "no base file"),
        (lambda content: content[:8] + b"\xff" * 12 + content[20:], "cut off"),
        (
            lambda content: content[:20] + b"\xff" * 4 + content[24:],
            "not in its vocabulary",
        ),
    ],
)
def test_a_damaged_file_is_refused(files, damage, reason):
    file = files[0]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CorpusError, match=reason):
        read_logit_file(file)


def test_printed_figures_are_read(tmp_path):
    file = tmp_path / "printed.txt"
    file.write_text(PRINTED)
    figures = printed_figures(printed_divergence(file))
    assert (figures.kl.value, figures.kl.error) == (0.045678, 0.000345)
    assert figures.kl_quantiles == {
        0.5: 0.023456,
        0.9: 0.098765,
        0.95: 0.156789,
        0.99: 0.456789,
        0.999: 1.234567,
    }
    assert figures.delta.value == pytest.approx(-0.00567)
    assert figures.delta_quantiles[0.01] == pytest.approx(-0.21098)
    assert figures.same_top.error == pytest.approx(0.00123)
    assert (figures.ratio.value, figures.perplexity) == (1.040845, 9.123456)
    assert not is_logit_file(file)
    file.write_text("nothing")
    assert printed_divergence(file) is None


def program_blocks():
    """What the program compared: its base file, and the other model's log-probabilities in full."""
    base = read_logit_file(PROGRAM_FILES / "base.kld")
    log_probabilities = log_softmax(np.load(PROGRAM_FILES / "other.npy").astype(float))
    n_rows = base.n_rows
    blocks = []
    for rows in paired_rows(base, base):
        start = rows.chunk * n_rows
        blocks.append(
            token_divergences(
                rows.base, log_probabilities[start : start + n_rows], rows.targets
            )
        )
    return blocks


def test_figures_equal_those_that_llama_cpp_printed_in_every_digit():
    figures = divergence_figures(program_blocks())
    printed = printed_figures(printed_divergence(PROGRAM_FILES / "printed.txt"))
    assert (figures.n_tokens, printed.n_tokens) == (108, None)
    # Six digits, of percent three; the program's single precision moves the last by one.
    nats = 1.01e-6
    share = 0.51e-5
    assert figures.kl.value == pytest.approx(printed.kl.value, abs=nats)
    assert figures.kl_max == pytest.approx(printed.kl_max, abs=nats)
    assert figures.kl_quantiles[0.5] == pytest.approx(
        printed.kl_quantiles[0.5], abs=nats
    )
    assert figures.kl_quantiles[0.9] == pytest.approx(
        printed.kl_quantiles[0.9], abs=nats
    )
    assert figures.delta.value == pytest.approx(printed.delta.value, abs=share)
    assert figures.delta_rms.value == pytest.approx(printed.delta_rms.value, abs=share)
    assert figures.same_top.value == pytest.approx(printed.same_top.value, abs=share)
    assert figures.ratio.value == pytest.approx(printed.ratio.value, abs=nats)
    assert figures.perplexity == pytest.approx(printed.perplexity, rel=1e-7)
    assert figures.base_perplexity == pytest.approx(printed.base_perplexity, rel=1e-7)


def test_a_base_file_keeps_the_figures_but_of_what_it_cuts_off(tmp_path):
    """Right tokens more than 16 nats below the first choice are counted, not hidden."""
    base = read_logit_file(PROGRAM_FILES / "base.kld")
    logits = np.zeros((*base.tokens.shape, base.n_vocab))
    other_logits = np.load(PROGRAM_FILES / "other.npy").reshape(4, base.n_rows, -1)
    logits[:, base.tokens.shape[1] // 2 : -1] = other_logits
    changed = read_logit_file(write_logits(tmp_path / "other.kld", base.tokens, logits))
    blocks = []
    n_cut = 0
    for rows in paired_rows(base, changed):
        blocks.append(token_divergences(rows.base, rows.changed, rows.targets))
        n_cut += rows.n_cut
    right = base.tokens[:, base.tokens.shape[1] // 2 + 1 :]
    gaps = (
        other_logits.max(axis=-1)
        - np.take_along_axis(other_logits, right[..., None], axis=-1)[..., 0]
    )
    assert n_cut == (gaps > 16).sum() > 0
    figures = divergence_figures(blocks)
    printed = printed_figures(printed_divergence(PROGRAM_FILES / "printed.txt"))
    # 16 bits over 16 nats.
    assert figures.kl.value == pytest.approx(printed.kl.value, abs=2e-5)
    assert figures.kl_max == pytest.approx(printed.kl_max, abs=3e-4)
    assert figures.delta_rms.value == pytest.approx(printed.delta_rms.value, abs=2e-5)
    assert figures.same_top.value == pytest.approx(printed.same_top.value, abs=1e-5)
    assert figures.ratio.value < printed.ratio.value - 0.01
