"""llama.cpp's base files and printed figures."""

import numpy as np
import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.stats.divergence_figures import printed_figures
from sparsedash.storage.answers import logit_files
from sparsedash.storage.answers.logit_files import (
    is_logit_file,
    paired_rows,
    printed_divergence,
    read_logit_file,
)
from tests.llama_files import PRINTED, drawn_models, log_softmax, write_logits


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
    assert np.concatenate([row.targets for row in rows]).tolist() == tokens[:, 33:].ravel().tolist()


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
        (lambda content: content[:20] + b"\xff" * 4 + content[24:], "not in its vocabulary"),
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
