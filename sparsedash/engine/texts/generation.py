"""Calibration text sampled from the model itself, and greedy continuations of prompts, in batches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor

from sparsedash.catalog.resources import texts_at_once
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import use_fp32_copies_for_small_batches
from sparsedash.engine.texts.next_logits import growing_texts
from sparsedash.schema.progress import Checkpointed, OnStep, Step, without_checkpoint
from sparsedash.schema.settings import CalibrationSettings


@torch.inference_mode()
def generate_texts(
    loaded: LoadedModel,
    openings: Sequence[str],
    settings: CalibrationSettings,
    on_step: OnStep,
    checkpointed: Checkpointed[list[str]] = without_checkpoint,
) -> list[str]:
    """n_samples texts of about `length` tokens, sampled from the model after the openings in turn.

    None is longer than the model's context. The same settings and model give the same texts on the
    same machine. checkpointed: each batch of texts.
    """
    n_samples = settings.n_samples
    length = min(settings.length, loaded.max_length)
    message = f"the model writes {n_samples:,} × {length:,} tokens to calibrate on"
    step = Step(
        "text",
        0,
        n_samples * length,
        unit="tokens",
        message=message,
    )
    random = torch.Generator().manual_seed(settings.seed)
    uniform = torch.rand(n_samples, length, generator=random)
    prompts = [loaded.tokens(openings[i % len(openings)]) for i in range(n_samples)]
    batch_size = texts_at_once(length * loaded.cache_per_token)

    def write(start: int) -> list[str]:
        batch = prompts[start : start + batch_size]
        draws = uniform[start : start + batch_size].to(loaded.model.device)
        shortest = min(map(len, batch))
        n_new = min(length - shortest, loaded.max_length - max(map(len, batch)))

        def choose(logits: Tensor, number: int) -> Tensor:
            return _sample_tokens(loaded, logits, draws[:, number])

        def report(n_generated: int) -> None:
            n_tokens = min(length, shortest + n_generated) * len(batch)
            on_step(replace(step, done=start * length + n_tokens))

        ids = _generate(
            loaded,
            batch,
            max(1, n_new),
            choose,
            report,
        )
        return list(loaded.tokenizer.batch_decode(ids, skip_special_tokens=True))

    texts: list[str] = []
    for number, start in enumerate(range(0, n_samples, batch_size)):
        texts += checkpointed(number, partial(write, start))
    return texts


@torch.inference_mode()
def continue_prompts(
    loaded: LoadedModel, prompts: Sequence[str], n_tokens: int, on_step: OnStep
) -> list[str]:
    """Greedy continuation of each prompt, up to n_tokens or its end, by the model as it is now.

    Of a prompt that is longer than the context, the end is read.
    """
    step = Step("continue", 0, n_tokens, unit="tokens")
    prompt_ids: list[list[int]] = []
    for prompt in prompts:
        prefix, ids = loaded.prefix_and_ids(prompt)
        room = max(1, loaded.max_length - n_tokens - len(prefix))
        prompt_ids.append(prefix + ids[-room:])

    def choose(logits: Tensor, _: int) -> Tensor:
        return logits.argmax(-1, keepdim=True)

    def report(n_generated: int) -> None:
        on_step(replace(step, done=n_generated))

    continuations: list[list[int]] = []
    generated = _generate(
        loaded,
        prompt_ids,
        n_tokens,
        choose,
        report,
    )
    for read_ids, ids in zip(prompt_ids, generated, strict=True):
        new_ids = ids[len(read_ids) :]
        continuations.append(
            list(takewhile(lambda token: token not in loaded.eos_ids, new_ids))
        )
    texts = loaded.tokenizer.batch_decode(continuations, skip_special_tokens=True)
    # Half a character at the end is none.
    return [str(text).rstrip("\ufffd") for text in texts]


def _generate(
    loaded: LoadedModel,
    prompts: Sequence[list[int]],
    n_new: int,
    choose: Callable[[Tensor, int], Tensor],
    report: Callable[[int], None],
) -> list[list[int]]:
    """Prompts with n_new tokens each; none stops early. report: called after each token.

    choose: the next token of each row (n, 1) from its logits (n, vocabulary), which it may change,
    and the number of the token.
    """
    texts = growing_texts(loaded, prompts, n_new)
    new_tokens: list[Tensor] = []
    with use_fp32_copies_for_small_batches():
        for number in range(n_new):
            tokens = choose(texts.logits().float(), number)
            texts.append_(tokens)
            new_tokens.append(tokens)
            report(number + 1)
    generated = torch.cat(new_tokens, dim=1).tolist()
    return [[*prompt, *ids] for prompt, ids in zip(prompts, generated, strict=True)]


def _sample_tokens(
    loaded: LoadedModel,
    logits: Tensor,
    uniform: Tensor,
) -> Tensor:
    """One token a row (n, 1), never an end of text. logits: (n, vocabulary), changed in place.

    Inverse transform sampling: one random number a row, where multinomial sampling takes one for
    each entry of the vocabulary.
    """
    logits[:, loaded.eos_ids] = float("-inf")
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    thresholds = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds, right=True).clamp_(
        max=logits.shape[1] - 1
    )
