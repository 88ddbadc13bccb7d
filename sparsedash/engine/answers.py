"""The whole word a model writes where its answer is wrong: its first wrong token, then on to the word's end."""

import inspect
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache

from sparsedash.engine.models import LoadedModel

MAX_MORE_TOKENS = 2

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


def finish_words(
    loaded: LoadedModel,
    mask: Tensor,
    cache: Cache,
    n_context: Sequence[int],
    begun: Sequence[list[int] | None],
) -> list[str | None]:
    """The first word that each row goes on to write, greedily.

    mask: (b, t), and cache: of the batch just read; the cache is used up. n_context: tokens of each row's context.
    begun: tokens of the answer that are known already, None for rows that need no answer (their word is None).
    """
    written = {row: list(tokens) for row, tokens in enumerate(begun) if tokens is not None}
    rows = [row for row in written if not _is_finished(loaded, written[row])]
    if rows:
        cache.batch_select_indices(torch.tensor(rows, device=mask.device))
        _write_on(loaded, mask[rows].clone(), cache, rows, n_context, written)
    return [
        _first_word(loaded.tokenizer.decode(written[row])) if row in written else None
        for row in range(len(begun))
    ]


def _write_on(
    loaded: LoadedModel,
    mask: Tensor,
    cache: Cache,
    rows: Sequence[int],
    n_context: Sequence[int],
    written: dict[int, list[int]],
) -> None:
    """Append tokens to `written` for these rows, in place. mask: (r, t) of just these rows."""
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    for place, row in enumerate(rows):
        # The columns of target tokens after the first wrong one were read, but the model did not write them.
        mask[place, n_context[row] + len(written[row]) - 1 :] = 0
    for _ in range(MAX_MORE_TOKENS):
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        last = torch.tensor([[written[row][-1]] for row in rows], device=mask.device)
        positions = torch.tensor(
            [[n_context[row] + len(written[row]) - 1] for row in rows], device=mask.device
        )
        extra = {"position_ids": positions} if takes_positions else {}
        output = loaded.model(
            input_ids=last, attention_mask=mask, cache=cache, use_cache=True, **extra
        )
        for row, token in zip(rows, output.logits[:, -1].argmax(dim=-1).tolist(), strict=True):
            written[row].append(token)
        if all(_is_finished(loaded, written[row]) for row in rows):
            return


def _is_finished(loaded: LoadedModel, tokens: Sequence[int]) -> bool:
    """Whether a whole word stands at the front, with something after it that does not belong to it."""
    text = loaded.tokenizer.decode(tokens)
    if text.endswith("\ufffd"):
        # Half of a character: the rest of its bytes is in the next token.
        return False
    word = _WHOLE_WORD.match(text)
    if word is None:
        return bool(text.strip()) or len(tokens) > 1
    return word.end() < len(text)


def _first_word(text: str) -> str:
    text = text.rstrip("\ufffd")
    if not text:
        return "(part of a character)"
    word = _WHOLE_WORD.match(text)
    return word.group() if word else text.strip()[:1]
