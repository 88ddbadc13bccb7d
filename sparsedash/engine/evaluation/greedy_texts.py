"""Greedy decoding by one or several models. Streamed weights are read once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile

import torch

from sparsedash.catalog.resources import BATCH_TOKENS, texts_at_once
from sparsedash.engine.evaluation.answers import (
    UnfinishedAnswers,
    finish_answers_,
    unfinished_answers,
)
from sparsedash.engine.evaluation.continuations import OnAnswered
from sparsedash.engine.evaluation.side_by_side import model_groups, reading
from sparsedash.engine.models.decoder_blocks import Applied, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.next_logits import empty_caches
from sparsedash.schema.errors import CorpusError

_MORE_TOKENS = 8
"""Tokens beside those of the longest stop text in which it is looked for."""


@torch.inference_mode()
def write_greedily(
    loaded: LoadedModel,
    models: Sequence[Applied],
    prompts: Sequence[Sequence[int]],
    n_new: int,
    stops: Sequence[str],
    on_answered: OnAnswered,
) -> list[list[str]]:
    """Greedy text of each model after each prompt: at most n_new tokens, up to any stop text.

    A prompt that leaves no room for them loses its beginning. Raises CorpusError where no prompt
    does.
    """
    most = loaded.max_length - n_new
    if most < 1:
        raise CorpusError(
            f"{n_new:,} written tokens are more than the model's {loaded.max_length:,}."
        )
    cut_prompts = [list(prompt)[-most:] for prompt in prompts]
    texts = [[""] * len(prompts) for _ in models]
    n_answered = 0
    for numbers in model_groups(loaded, models):
        with reading(loaded, models, numbers) as inside:
            for places in _prompt_groups(loaded, cut_prompts, n_new, len(numbers)):
                together = [cut_prompts[place] for place in places]
                on_block = partial(on_answered, n_answered)
                written = _write(loaded, inside, together, n_new, stops, on_block)
                for number, model_texts in zip(numbers, written, strict=True):
                    for place, text in zip(places, model_texts, strict=True):
                        texts[number][place] = text
                n_answered += len(numbers) * len(places)
                on_answered(n_answered)
                loaded.residency.drop()
    return texts


def _prompt_groups(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], n_new: int, n_models: int
) -> Iterator[list[int]]:
    """Positions of prompts that fit into memory together, longest first."""
    waiting = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    while waiting:
        n_tokens = len(prompts[waiting[0]]) + n_new
        n = texts_at_once(n_models * loaded.cache_per_token * n_tokens)
        yield waiting[:n]
        waiting = waiting[n:]


def _write(
    loaded: LoadedModel,
    inside: Sequence[Applied],
    prompts: Sequence[list[int]],
    n_new: int,
    stops: Sequence[str],
    on_block: Callable[[], None],
) -> list[list[str]]:
    """The texts of each model after these prompts."""
    endings = _Endings(loaded, stops)
    written: list[list[list[int]]] = []
    unfinished: list[UnfinishedAnswers] = []
    for _ in inside:
        written.append([[] for _ in prompts])
    for places, batch in loaded.batches(prompts, BATCH_TOKENS):
        contexts = [prompts[place] for place in places]
        caches = empty_caches(loaded, len(inside))
        walk = loaded.walk([batch] * len(inside), caches)
        walk.run(inside, lambda _: on_block())
        for number, (applied, cache) in enumerate(zip(inside, caches, strict=True)):
            answers = [written[number][place] for place in places]
            first_tokens = _next_tokens(loaded, walk, number, contexts)
            for answer, token in zip(answers, first_tokens, strict=True):
                answer.append(token)
            unfinished += unfinished_answers(
                loaded, applied, cache, contexts, answers, endings.finish
            )
    finish_answers_(loaded, unfinished, lambda _: on_block(), endings.finish, n_new - 1)
    return [list(map(endings.text_before, answers)) for answers in written]


def _next_tokens(
    loaded: LoadedModel, walk: BlockWalk, number: int, contexts: Sequence[Sequence[int]]
) -> list[int]:
    """The first choice after each context of a batch; it is past its last block."""
    device = loaded.model.device
    rows = torch.arange(len(contexts), device=device)
    last_columns = torch.tensor(
        [len(context) - 1 for context in contexts], device=device
    )
    with head_sees_only(loaded.model, rows, last_columns):
        logits = walk.output(loaded.model, number).logits
    choices: list[int] = logits.argmax(dim=-1).tolist()
    return choices


class _Endings:
    """The end of a written text: at a token that ends it, or before a stop text."""

    def __init__(self, loaded: LoadedModel, stops: Sequence[str]) -> None:
        self._decode = loaded.tokenizer.decode
        self._stops = stops
        # The tokenizer's too, as in the harness.
        self._end_tokens = {*loaded.eos_ids, loaded.tokenizer.eos_token_id}
        self._n_last = max([0, *map(len, stops)]) + _MORE_TOKENS

    def finish(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens need no further ones."""
        if tokens[-1] in self._end_tokens:
            return True
        last_text = self._decode(tokens[-self._n_last :])
        return any(stop in last_text for stop in self._stops)

    def text_before(self, tokens: Sequence[int]) -> str:
        """The text of these tokens up to its end."""
        kept = list(takewhile(lambda token: token not in self._end_tokens, tokens))
        text = str(self._decode(kept, skip_special_tokens=True))
        for stop in self._stops:
            text = text.split(stop)[0]
        return text
