"""Calibration text that a model writes itself."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from sparsedash.catalog.engine_limits import CACHE_BYTES, FEWEST_TEXTS, MOST_TEXTS
from sparsedash.engine.models.block_walk import head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.products import few_inputs_by_copy
from sparsedash.engine.models.roomy_cache import roomy_cache
from sparsedash.engine.texts.side_by_side import Tell, n_streams, side_by_side
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
    prompts = [loaded.tokens(openings[i % len(openings)]) for i in range(n_samples)]
    n_at_once = _texts_at_once(loaded, length)

    def write(start: int) -> list[str]:
        part = slice(start, start + n_at_once)

        def on_written(n_tokens: int) -> None:
            on_step(replace(step, done=start * length + n_tokens))

        written = _write_together(loaded, prompts[part], luck[part], on_written)
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


def _write_together(
    loaded: LoadedModel, prompts: Sequence[list[int]], luck: Tensor, on_written: Callable[[int], None]
) -> list[list[int]]:
    """Prompts and what follows them, each as many tokens long as `luck` is wide at least.

    luck: (n, length), in [0, 1). on_written: told how many tokens there are, prompts among them.
    """
    length, shortest = luck.shape[1], min(map(len, prompts))
    n_new = max(1, length - shortest)
    size = -(-len(prompts) // n_streams(loaded, len(prompts) // FEWEST_TEXTS))
    shares = [slice(start, start + size) for start in range(0, len(prompts), size)]

    def on_new(n_each: Sequence[int]) -> None:
        n_tokens = [min(length, shortest + n) for n in n_each]
        on_written(sum(n * len(prompts[own]) for n, own in zip(n_tokens, shares, strict=True)))

    with head_sees_only(loaded.model, slice(None), -1), few_inputs_by_copy():
        pieces = [partial(_write, loaded, prompts[own], luck[own, :n_new]) for own in shares]
        return list(chain.from_iterable(side_by_side(pieces, on_new)))


def _write(loaded: LoadedModel, prompts: Sequence[list[int]], luck: Tensor, tell: Tell) -> list[list[int]]:
    """Prompts and what follows them, a token for every column of `luck`; nobody stops early.

    luck: (n, new), in [0, 1). tell: told after each token how many there are.
    """
    luck = luck.to(loaded.model.device)
    longest, n_new = max(map(len, prompts)), luck.shape[1]
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    ids, mask = ids.to(luck.device), mask.to(luck.device)
    written = [ids]
    cache = roomy_cache(longest + n_new)
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    for number in range(n_new):
        n_read = written[-1].shape[1]
        extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -n_read:]} if takes_positions else {}
        output = loaded.model(input_ids=written[-1], attention_mask=mask, cache=cache, use_cache=True, **extra)
        written.append(_drawn(loaded, output.logits.float(), luck[:, number]))
        mask = torch.cat([mask, torch.ones_like(written[-1])], dim=1)
        tell(number + 1)
    return [row[kept].tolist() for row, kept in zip(torch.cat(written, dim=1), mask.bool(), strict=True)]


def _drawn(loaded: LoadedModel, logits: Tensor, luck: Tensor) -> Tensor:
    """One token for each row (n, 1), never the one that ends a text. logits: (n, vocabulary), changed in place.

    The token at which the chances, summed up in the vocabulary's order, pass the row's luck (n,): one random number
    a row, where choosing among weighed tokens takes one for each of the vocabulary.
    """
    logits[:, loaded.ends] = float("-inf")
    chances = logits.softmax(dim=-1).cumsum(dim=-1)
    reached = luck[:, None] * chances[:, -1:]
    return torch.searchsorted(chances, reached, right=True).clamp_(max=logits.shape[1] - 1)
