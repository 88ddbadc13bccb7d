"""Calibration text that a model writes itself."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sparsedash.engine.models import LoadedModel
from sparsedash.progress import OnStep, Stage, Step
from sparsedash.settings import CalibrationSettings

SAMPLE_BATCH = 32


@torch.inference_mode()
def sample_texts(
    loaded: LoadedModel, openings: Sequence[str], settings: CalibrationSettings, on_step: OnStep
) -> list[str]:
    """Texts of about `length` tokens, n_samples of them, sampled from the model after the openings in turn.

    The same settings and the same model give the same texts on the same machine.
    """
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(settings.seed)
    texts: list[str] = []
    n_batches = math.ceil(settings.n_samples / SAMPLE_BATCH)
    try:
        for number in range(n_batches):
            n_left = min(SAMPLE_BATCH, settings.n_samples - len(texts))
            prompts = [openings[(len(texts) + i) % len(openings)] for i in range(n_left)]
            progress = _Progress(
                on_step, "text", number * settings.length, n_batches * settings.length
            )
            texts += _write(loaded, prompts, settings.length, progress, do_sample=True, top_k=0)
    finally:
        torch.random.set_rng_state(generator_state)
    return texts


class _Progress(StoppingCriteria):  # type: ignore[misc]
    """Never stops the writing itself; reports every token, and lets `Cancelled` through."""

    def __init__(self, on_step: OnStep, stage: Stage, done: int, total: int) -> None:
        self._on_step, self._stage = on_step, stage
        self._done, self._total = done, total

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._done += 1
        self._on_step(Step(self._stage, min(self._done, self._total), self._total, unit="tokens"))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _write(
    loaded: LoadedModel, prompts: Sequence[str], length: int, progress: _Progress, **choices: Any
) -> list[str]:
    """Prompts and what follows them, each `length` tokens long at least; nobody stops early."""
    # A copy's padding side, so that the shared tokenizer keeps its own.
    encoded = loaded.tokenizer(list(prompts)).input_ids
    longest = max(map(len, encoded))
    ids = torch.full((len(encoded), longest), _pad(loaded))
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    n_new = max(1, length - min(map(len, encoded)))
    ends = loaded.model.generation_config.eos_token_id
    output = loaded.model.generate(
        ids.to(loaded.model.device),
        attention_mask=mask.to(loaded.model.device),
        max_new_tokens=n_new,
        pad_token_id=_pad(loaded),
        suppress_tokens=[ends] if isinstance(ends, int) else ends,
        stopping_criteria=StoppingCriteriaList([progress]),
        **choices,
    )
    texts: list[str] = loaded.tokenizer.batch_decode(output, skip_special_tokens=True)
    return texts


def _pad(loaded: LoadedModel) -> int:
    return loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id or 0
