"""Base files of llama.cpp, written from logits as its perplexity program does."""

import numpy as np

PRINTED = """
====== Perplexity statistics ======
Mean PPL(Q)                   :   9.123456 ±   0.061234
Mean PPL(base)                :   8.765432 ±   0.058765
Cor(ln(PPL(Q)), ln(PPL(base))):  99.12%
Mean ln(PPL(Q)/PPL(base))     :   0.040033 ±   0.000876
Mean PPL(Q)/PPL(base)         :   1.040845 ±   0.000912
Mean PPL(Q)-PPL(base)         :   0.358024 ±   0.008123

====== KL divergence statistics ======
Mean    KLD:   0.045678 ±   0.000345
Maximum KLD:   9.876543
99.9%   KLD:   1.234567
99.0%   KLD:   0.456789
95.0%   KLD:   0.156789
90.0%   KLD:   0.098765
Median  KLD:   0.023456
10.0%   KLD:   0.000123
 1.0%   KLD:   0.000001
Minimum KLD:  -0.000003

====== Token probability statistics ======
Mean    Δp: -0.567 ± 0.021 %
Maximum Δp: 71.234%
99.0%   Δp: 12.345%
95.0%   Δp:  5.678%
Median  Δp: -0.012%
 5.0%   Δp: -8.765%
 1.0%   Δp: -21.098%
RMS Δp    :  5.432 ± 0.054 %
Same top p: 91.234 ± 0.123 %
"""


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def write_logits(path, tokens, logits):
    """tokens: (n_chunk, n_ctx). logits: (n_chunk, n_ctx, v), of which the second halves are kept."""
    n_chunk, n_ctx = tokens.shape
    n_vocab = logits.shape[-1]
    content = [b"_logits_", np.array([n_ctx, n_vocab, n_chunk], "<i4").tobytes()]
    content.append(tokens.astype("<i4").tobytes())
    for chunk in range(n_chunk):
        for row in logits[chunk, n_ctx // 2 : n_ctx - 1].astype(np.float32):
            highest = row.max()
            lowest = max(row.min(), highest - 16)
            log_sum = np.log(np.exp(row - highest).sum())
            scale = np.float32((highest - lowest) / 65535)
            content.append(
                np.array([scale, lowest - highest - log_sum], "<f4").tobytes()
            )
            steps = np.where(row > lowest, np.rint((row - lowest) / scale), 0)
            padded = np.zeros(2 * ((n_vocab + 1) // 2), "<u2")
            padded[:n_vocab] = steps
            content.append(padded.tobytes())
    path.write_bytes(b"".join(content))
    return path


def drawn_models(n_chunk=40, n_ctx=64, n_vocab=101, noise=0.3, seed=65):
    """Tokens, and the logits of a base model and of one near it; the vocabulary is odd."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, n_vocab, (n_chunk, n_ctx))
    base = 3 * rng.standard_normal((n_chunk, n_ctx, n_vocab))
    # The right token is often likely.
    for chunk in range(n_chunk):
        for place in range(n_ctx - 1):
            base[chunk, place, tokens[chunk, place + 1]] += 6
    return tokens, base, base + noise * rng.standard_normal(base.shape)
