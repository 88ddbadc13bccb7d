"""The whole word a model writes where its answer is wrong: its first wrong token, then on to the word's end."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.roomy_cache import RoomyLayer

MAX_MORE_TOKENS = 12
"""A word that goes on for longer is shown as far as it came."""

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


@dataclass(frozen=True, eq=False)
class Unfinished:
    """Answers that go on after equally many tokens, and what the model keeps of those.

    written: the tokens of each so far; finishing adds to them. layers: of each, keys and values (r, heads, t, e).
    """

    written: list[list[int]]
    layers: list[tuple[Tensor, Tensor]]


def unfinished(
    loaded: LoadedModel, cache: Cache, n_context: Sequence[int], begun: Sequence[list[int] | None]
) -> list[Unfinished]:
    """The answers that are no whole word yet, a part for every length of what was read.

    cache: of the batch just read; emptied. n_context: tokens of each row's context. begun: tokens of the answer that
    are known already, None for rows that need no answer.
    """
    parts: dict[int, tuple[list[int], Unfinished]] = {}
    for row, tokens in enumerate(begun):
        if tokens is not None and not _is_finished(loaded, tokens):
            # The columns of target tokens after the first wrong one were read, but the model did not write them.
            rows, part = parts.setdefault(n_context[row] + len(tokens) - 1, ([], Unfinished([], [])))
            rows.append(row)
            part.written.append(tokens)
    while cache.layers:
        # Let go of layer by layer: all of them twice may be gigabytes.
        layer = cache.layers.pop(0)
        for length, (rows, part) in parts.items():
            part.layers.append((layer.keys[rows, :, :length], layer.values[rows, :, :length]))
    return [part for _, part in parts.values()]


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


def _joined(loaded: LoadedModel, parts: Sequence[Unfinished]) -> tuple[Tensor, Cache]:
    """One mask (r, t) and one cache of all parts' rows, which lose theirs on the way.

    Rows end together: a sliding window counts columns back from the last one, where padding must not take up its room.
    Positions are in the keys already, or are counted from the mask.
    """
    lengths = [part.layers[0][0].shape[2] for part in parts for _ in part.written]
    cache = DynamicCache()
    for _ in range(len(parts[0].layers)):
        # Layer by layer, as above; and given back, since the next one is as large and finds no room in the gaps.
        cache.layers.append(RoomyLayer.ending_together([part.layers.pop(0) for part in parts], MAX_MORE_TOKENS))
        loaded.residency.drop()
    columns = torch.arange(max(lengths), device=cache.layers[0].device)
    return (columns >= max(lengths) - torch.tensor(lengths, device=columns.device)[:, None]).long(), cache


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
