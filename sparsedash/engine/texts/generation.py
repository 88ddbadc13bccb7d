"""Calibration text that a model writes itself."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sparsedash.catalog.engine_limits import CACHE_BYTES, FEWEST_TEXTS, MOST_TEXTS
from sparsedash.engine.models.block_walk import head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.progress import Made, OnStep, Step, at_once
from sparsedash.schema.settings import CalibrationSettings


@torch.inference_mode()
def sample_texts(
    loaded: LoadedModel,
    openings: Sequence[str],
    settings: CalibrationSettings,
    on_step: OnStep,
    made: Made[list[str]] = at_once,
) -> list[str]:
    """Texts of about `length` tokens, n_samples of them, sampled from the model after the openings in turn.

    The same settings and the same model give the same texts on the same machine. made: see Made; a part is the texts
    that are written at once.
    """
    n_samples, length = settings.n_samples, settings.length
    message = f"the model writes {n_samples:,} × {length:,} tokens to calibrate on"
    step = Step("text", 0, n_samples * length, unit="tokens", message=message)
    luck = torch.rand(n_samples, length, generator=torch.Generator().manual_seed(settings.seed))
    prompts = [loaded.tokenizer(openings[i % len(openings)]).input_ids for i in range(n_samples)]
    n_at_once = _texts_at_once(loaded, length)

    def write(start: int) -> list[str]:
        part = slice(start, start + n_at_once)

        def on_token(n_tokens: int) -> None:
            on_step(replace(step, done=start * length + len(prompts[part]) * n_tokens))

        written = _write(loaded, prompts[part], luck[part].to(loaded.model.device), on_token)
        return list(loaded.tokenizer.batch_decode(written, skip_special_tokens=True))

    texts: list[str] = []
    for number, start in enumerate(range(0, n_samples, n_at_once)):
        texts += made(number, partial(write, start))
    return texts


def _texts_at_once(loaded: LoadedModel, length: int) -> int:
    """How many texts of this length are written together, by what the model keeps of one token."""
    token = torch.zeros(1, 1, dtype=torch.long, device=loaded.model.device)
    layers = loaded.model(input_ids=token, use_cache=True).cache.layers
    n_bytes = length * sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    return int(min(MOST_TEXTS, max(FEWEST_TEXTS, CACHE_BYTES // n_bytes)))


def _write(
    loaded: LoadedModel, prompts: Sequence[list[int]], luck: Tensor, on_token: Callable[[int], None]
) -> list[list[int]]:
    """Prompts and what follows them, each as many tokens long as `luck` is wide at least; nobody stops early.

    luck: (n, length), in [0, 1). on_token: told after each token how long the shortest text is.
    """
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    n_new = max(1, luck.shape[1] - shortest)
    ids, mask = ids.to(luck.device), mask.to(luck.device)
    written = [ids]
    cache = DynamicCache()
    cache.layer_class_to_replicate = partial(_RoomyLayer, longest + n_new)
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    rows = torch.arange(len(prompts), device=luck.device)
    with head_sees_only(loaded.model, rows, torch.full_like(rows, -1)):
        for number in range(n_new):
            n_read = written[-1].shape[1]
            extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -n_read:]} if takes_positions else {}
            output = loaded.model(input_ids=written[-1], attention_mask=mask, cache=cache, use_cache=True, **extra)
            written.append(_drawn(loaded, output.logits.float(), luck[:, number]))
            mask = torch.cat([mask, torch.ones_like(written[-1])], dim=1)
            on_token(min(luck.shape[1], shortest + number + 1))
    texts = torch.cat(written, dim=1)
    return [row[kept].tolist() for row, kept in zip(texts, mask.bool(), strict=True)]


def _drawn(loaded: LoadedModel, logits: Tensor, luck: Tensor) -> Tensor:
    """One token for each row (n, 1), never the one that ends a text. logits: (n, vocabulary), changed in place.

    The token at which the chances, summed up in the vocabulary's order, pass the row's luck (n,): one random number
    a row, where choosing among weighed tokens takes one for each of the vocabulary.
    """
    ends = loaded.model.generation_config.eos_token_id
    if ends is not None:
        logits[:, ends] = float("-inf")
    chances = logits.softmax(dim=-1).cumsum(dim=-1)
    reached = luck[:, None] * chances[:, -1:]
    return torch.searchsorted(chances, reached, right=True).clamp_(max=logits.shape[1] - 1)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache with room for so many tokens from the beginning, so that none is copied for the next one."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self._n_tokens = n_tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._room = [
            states.new_empty(*states.shape[:2], self._n_tokens, states.shape[3])
            for states in (key_states, value_states)
        ]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:stop] = states
        self.keys, self.values = (room[:, :, :stop] for room in self._room)
        return self.keys, self.values
