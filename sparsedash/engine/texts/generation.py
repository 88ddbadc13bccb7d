"""Calibration text that a model writes itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import CalibrationSettings

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
    n_samples, length = settings.n_samples, settings.length
    message = f"the model writes {n_samples:,} × {length:,} tokens to calibrate on"
    step = Step("text", 0, n_samples * length, unit="tokens", message=message)
    texts: list[str] = []
    try:
        while len(texts) < n_samples:
            n_now = min(SAMPLE_BATCH, n_samples - len(texts))
            prompts = [openings[(len(texts) + i) % len(openings)] for i in range(n_now)]
            begun = replace(step, done=len(texts) * length)
            texts += _write(loaded, prompts, length, begun, on_step)
    finally:
        torch.random.set_rng_state(generator_state)
    return texts


class _Progress(StoppingCriteria):  # type: ignore[misc]
    """Never stops the writing itself; reports every token of every text, and lets `Cancelled` through.

    begun: how far all texts were before these. n_read: tokens of each that were not written but given.
    """

    def __init__(self, on_step: OnStep, begun: Step, n_read: int) -> None:
        self._on_step, self._begun, self._length = on_step, begun, n_read

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        n_texts, self._length = input_ids.shape[0], self._length + 1
        self._on_step(replace(self._begun, done=self._begun.done + n_texts * self._length))
        return torch.zeros(n_texts, dtype=torch.bool, device=input_ids.device)


def _write(loaded: LoadedModel, prompts: Sequence[str], length: int, begun: Step, on_step: OnStep) -> list[str]:
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
        stopping_criteria=StoppingCriteriaList([_Progress(on_step, begun, length - n_new)]),
        do_sample=True,
        top_k=0,
    )
    texts: list[str] = loaded.tokenizer.batch_decode(output, skip_special_tokens=True)
    return texts


def _pad(loaded: LoadedModel) -> int:
    return loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id or 0
