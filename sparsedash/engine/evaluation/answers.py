"""The whole word a model writes where its answer is wrong: its first wrong token, then on to the word's end."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from sparsedash.engine.models.loading import LoadedModel

MAX_MORE_TOKENS = 12
"""A word that goes on for longer is shown as far as it came."""

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


@dataclass(frozen=True, eq=False)
class Unfinished:
    """Answers of one batch that go on, and what the model keeps of the passages before them.

    written: the tokens of each so far; finishing adds to them. mask: (r, t), 1 where a column of the cache is real.
    layers: of each, keys and values (r, heads, t, e).
    """

    written: list[list[int]]
    mask: Tensor
    layers: list[tuple[Tensor, Tensor]]


def unfinished(
    loaded: LoadedModel, cache: Cache, n_context: Sequence[int], begun: Sequence[list[int] | None]
) -> Unfinished | None:
    """The answers that are no whole word yet; None where all are.

    cache: of the batch just read; emptied. n_context: tokens of each row's context. begun: tokens of the answer that
    are known already, None for rows that need no answer.
    """
    rows = [row for row, tokens in enumerate(begun) if tokens is not None and not _is_finished(loaded, tokens)]
    if not rows:
        return None
    written = [tokens for row in rows if (tokens := begun[row]) is not None]
    # The columns of target tokens after the first wrong one were read, but the model did not write them.
    lengths = [n_context[row] + len(tokens) - 1 for row, tokens in zip(rows, written, strict=True)]
    return Unfinished(written, *_aligned_right(cache, rows, lengths))


def finish_(loaded: LoadedModel, parts: Sequence[Unfinished]) -> None:
    """Let the model write on, greedily, to the end of each word: the answers of many batches together, in place.

    A token more costs a pass over all weights, for one answer as for a hundred.
    """
    if parts:
        mask, cache = _joined(loaded, parts)
        _write_on_(loaded, mask, cache, [tokens for part in parts for tokens in part.written])


def first_word(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    """The word that these tokens begin with, as it is shown."""
    text = loaded.tokenizer.decode(tokens).rstrip("\ufffd")
    if not text:
        return "(part of a character)"
    word = _WHOLE_WORD.match(text)
    return word.group() if word else text.strip()[:1]


def _aligned_right(
    cache: Cache, rows: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Mask and layers of these rows, with what was read of each moved to the end. Takes the cache's layers from it.

    A sliding window counts columns back from the last one: padding between must not take up its room. Positions are
    in the keys already, or are counted from the mask.
    """
    device = cache.layers[0].keys.device
    chosen, ends = torch.tensor(rows, device=device), torch.tensor(lengths, device=device)[:, None]
    columns = torch.arange(max(lengths), device=device)[None, :] - (max(lengths) - ends)
    where = columns.clamp(min=0)[:, None, :, None]

    def moved(held: Tensor) -> Tensor:
        return held[chosen].gather(2, where.expand(-1, held.shape[1], -1, held.shape[3]))

    layers = []
    while cache.layers:
        # Let go of layer by layer: all of them twice may be gigabytes.
        layer = cache.layers.pop(0)
        layers.append((moved(layer.keys), moved(layer.values)))
    return (columns >= 0).long(), layers


def _joined(loaded: LoadedModel, parts: Sequence[Unfinished]) -> tuple[Tensor, Cache]:
    """One mask and one cache of all parts' rows, which lose theirs on the way; the shorter are padded on the left."""
    longest = max(part.mask.shape[1] for part in parts)
    mask = torch.cat([nn.functional.pad(part.mask, (longest - part.mask.shape[1], 0)) for part in parts])
    cache = DynamicCache()
    for index in range(len(parts[0].layers)):
        # Layer by layer, as above; and given back, since the next one is as large and finds no room in the gaps.
        keys, values = (
            torch.cat([nn.functional.pad(held, (0, 0, longest - held.shape[2], 0)) for held in of_parts])
            for of_parts in zip(*(part.layers.pop(0) for part in parts), strict=True)
        )
        cache.update(keys, values, index)
        loaded.residency.drop()
    return mask, cache


def _write_on_(loaded: LoadedModel, mask: Tensor, cache: Cache, written: list[list[int]]) -> None:
    """Append tokens to each of `written`, in place. mask: (r, t)."""
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    going_on = list(range(len(written)))
    for _ in range(MAX_MORE_TOKENS):
        last = torch.tensor([[tokens[-1]] for tokens in written], device=mask.device)
        extra = {"position_ids": mask.sum(dim=1, keepdim=True)} if takes_positions else {}
        mask = torch.cat([mask, mask.new_ones(len(written), 1)], dim=1)
        output = loaded.model(input_ids=last, attention_mask=mask, cache=cache, use_cache=True, **extra)
        choices = output.logits[:, -1].argmax(dim=-1).tolist()
        for row in going_on:
            written[row].append(choices[row])
        going_on = [row for row in going_on if not _is_finished(loaded, written[row])]
        if not going_on:
            return
        # Few words have many tokens: those that have should not take the others along.
        if len(going_on) <= len(written) * 3 // 4:
            chosen = torch.tensor(going_on, device=mask.device)
            cache.batch_select_indices(chosen)
            mask, written = mask[chosen], [written[row] for row in going_on]
            going_on = list(range(len(written)))


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
