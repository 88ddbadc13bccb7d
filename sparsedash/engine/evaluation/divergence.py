"""KL divergence of a changed model's predictions from the dense model's, in nats.

Dimensions: n tokens, v vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsedash.catalog.resources import compared_tokens
from sparsedash.engine.models.decoder_blocks import head_sees_only
from sparsedash.engine.models.loading import LoadedModel

_BATCH_TOKENS = 2048


@torch.inference_mode()
def next_token_scores(
    loaded: LoadedModel, texts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probabilities (n, v) of the next token at evenly spread places of these texts."""
    model = loaded.model
    scores = list[Tensor]()
    n_most = compared_tokens(model.get_output_embeddings().weight.shape[0])
    every = -(-sum(map(len, texts)) // n_most)
    for _, batch in loaded.batches(texts, _BATCH_TOKENS):
        places = batch.mask.nonzero()[::every]
        with head_sees_only(model, places[:, 0], places[:, 1]):
            logits = model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).logits
        scores.append(logits.float().log_softmax(dim=-1))
    return scores


def mean_divergence(dense: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Mean KL(dense || other) over all tokens. Both: as `next_token_scores` gives them."""
    divergences = (
        float(
            (dense_scores.exp() * (dense_scores - other_scores)).sum(
                dtype=torch.float64
            )
        )
        for dense_scores, other_scores in zip(dense, other, strict=True)
    )
    return max(0.0, sum(divergences) / sum(map(len, dense)))
