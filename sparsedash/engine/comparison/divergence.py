"""Divergence of two models' predictions at every token of a text: KL(left || right) in nats."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import JobError
from sparsedash.schema.pair_records import Divergence, DivergenceSettings, Place
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.storage.store import Store

CHUNK_LOGITS = 2**24
"""Logits of one model that are in memory at once: 64 MiB."""


def measure_divergence(
    settings: DivergenceSettings, store: Store, pair_cache: ModelPairCache, on_step: OnStep = ignore_steps
) -> Divergence:
    """Divergence of two records' models over a text, or its end if it is long; stored under the settings' key.

    Raises JobError when a record is gone, its model has changed, or the models do not share their tokens.
    """
    known = store.get(Divergence, settings.key())
    if known is not None:
        return known
    with pair_cache.models((settings.left, settings.right), store, on_step) as (left, right):
        found = _measured(left, right, settings, on_step)
    store.put(found.key, found)
    return found


@torch.inference_mode()
def _measured(
    left_model: RecordModel, right_model: RecordModel, settings: DivergenceSettings, on_step: OnStep
) -> Divergence:
    left, right = left_model.loaded, right_model.loaded
    ids = left.tokens(settings.text)
    if ids != right.tokens(settings.text):
        raise JobError(
            "The two models cut this text into different tokens, so they cannot be compared token by token.",
            "Compare two models with the same tokenizer.",
        )
    start = max(0, len(ids) - min(left.max_length, right.max_length))
    parts = _parts(left, settings.text, ids)
    rows = zip(*(_distributions(each, ids[start:]) for each in (left_model, right_model)), strict=True)
    places: list[Place] = []
    for of_left, of_right in rows:
        on_step(Step("diverge", len(places), len(ids) - start - 1, unit="tokens"))
        if of_left.shape != of_right.shape:
            raise JobError("The two models know different numbers of tokens.", "")
        nats = (of_left.exp() * (of_left - of_right)).sum(dim=-1).clamp_(min=0).tolist()
        choices = [
            [str(left.tokenizer.decode([i])) for i in logs.argmax(dim=-1).tolist()] for logs in (of_left, of_right)
        ]
        for value, one, other in zip(nats, *choices, strict=True):
            places.append(Place(text=parts[start + len(places) + 1], nats=value, left=one, right=other))
    return Divergence(key=settings.key(), opening="".join(parts[: start + 1]), places=tuple(places))


def _distributions(record_model: RecordModel, ids: Sequence[int]) -> Iterator[Tensor]:
    """Log-probabilities (t, vocabulary) of the tokens after the first, in chunks."""
    cache = None
    head = record_model.loaded.model.get_output_embeddings()
    step = max(1, CHUNK_LOGITS // head.weight.shape[0])
    for start in range(0, len(ids) - 1, step):
        chunk = ids[start : min(start + step, len(ids) - 1)]
        with record_model.active() as loaded:
            read = torch.tensor([chunk], device=loaded.model.device)
            output = loaded.model(input_ids=read, cache=cache, use_cache=True)
        cache = output.cache
        yield output.logits[0].float().log_softmax(dim=-1).cpu()


def _parts(loaded: LoadedModel, text: str, ids: Sequence[int]) -> list[str]:
    """The parts of the text by token, together the text again; "" for a token within a character."""
    if not loaded.tokenizer.is_fast:
        return [str(loaded.tokenizer.decode([token])) for token in ids]
    special = loaded.prepends_to(text)
    offsets = loaded.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True).offset_mapping
    parts, done = [], 0
    for _, end in offsets[: len(ids)]:
        parts.append(text[done : max(done, end)])
        done = max(done, end)
    return parts
