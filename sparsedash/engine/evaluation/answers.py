"""The whole word a model writes where its answer is wrong: its first wrong token, then on to the word's end."""

import inspect
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache

from sparsedash.engine.models.loading import LoadedModel

MAX_MORE_TOKENS = 12
"""A word that goes on for longer is shown as far as it came."""

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


def finish_words(
    loaded: LoadedModel, mask: Tensor, cache: Cache, n_context: Sequence[int], begun: Sequence[list[int] | None]
) -> list[str | None]:
    """The first word that each row goes on to write, greedily.

    mask: (b, t), and cache: of the batch just read; the cache is used up. n_context: tokens of each row's context.
    begun: tokens of the answer that are known already, None for rows that need no answer (their word is None).
    """
    written = {row: list(tokens) for row, tokens in enumerate(begun) if tokens is not None}
    rows = [row for row in written if not _is_finished(loaded, written[row])]
    if rows:
        cache.batch_select_indices(torch.tensor(rows, device=mask.device))
        # The columns of target tokens after the first wrong one were read, but the model did not write them.
        lengths = [n_context[row] + len(written[row]) - 1 for row in rows]
        _write_on(loaded, _align_right_(cache, lengths, mask.device), cache, rows, written)
    return [_first_word(loaded.tokenizer.decode(written[row])) if row in written else None for row in range(len(begun))]


def _align_right_(cache: Cache, lengths: Sequence[int], device: torch.device) -> Tensor:
    """Move what was read of each row to the end of the cache, in place; the mask (r, t) of it, 1 where it is real.

    A sliding window counts columns back from the last one: padding between must not take up its room. Positions are
    in the keys already, or are counted from the mask.
    """
    longest = max(lengths)
    ends = torch.tensor(lengths, device=device)[:, None]
    columns = torch.arange(longest, device=device)[None, :] - (longest - ends)
    for layer in cache.layers:
        for name in ("keys", "values"):
            held = getattr(layer, name)
            where = columns.clamp(min=0)[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
            setattr(layer, name, held.gather(2, where))
    return (columns >= 0).long()


def _write_on(loaded: LoadedModel, mask: Tensor, cache: Cache, rows: list[int], written: dict[int, list[int]]) -> None:
    """Append tokens to `written` for these rows, in place. mask: (r, t) of just these rows."""
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    going_on = list(range(len(rows)))
    for _ in range(MAX_MORE_TOKENS):
        last = torch.tensor([[written[row][-1]] for row in rows], device=mask.device)
        extra = {"position_ids": mask.sum(dim=1, keepdim=True)} if takes_positions else {}
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        output = loaded.model(input_ids=last, attention_mask=mask, cache=cache, use_cache=True, **extra)
        choices = output.logits[:, -1].argmax(dim=-1).tolist()
        for i in going_on:
            written[rows[i]].append(choices[i])
        going_on = [i for i in going_on if not _is_finished(loaded, written[rows[i]])]
        if not going_on:
            return
        # Few words have many tokens: those that have should not take the others along.
        if len(going_on) <= len(rows) // 2:
            chosen = torch.tensor(going_on, device=mask.device)
            cache.batch_select_indices(chosen)
            mask, rows = mask[chosen], [rows[i] for i in going_on]
            going_on = list(range(len(rows)))


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
