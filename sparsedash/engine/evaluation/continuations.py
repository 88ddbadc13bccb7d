"""Log-likelihoods of given continuations, and text written greedily, of one or several models on
token ids.

Requests with the same context read it once: the continuations of a question's choices go on from
its keys and values, and of one token need nothing more. Streamed weights are read once for all
models, and for several batches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import Cache, DynamicCache

from sparsedash.catalog.resources import BATCH_TOKENS, CACHE_BYTES, TOGETHER_TOKENS, texts_at_once
from sparsedash.engine.evaluation.answers import finish_answers_, unfinished_answers
from sparsedash.engine.evaluation.evaluate import n_fitting
from sparsedash.engine.models.decoder_blocks import (
    Applied,
    Batch,
    BlockWalk,
    PreallocatedLayer,
    head_sees_only,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CalibrationError, CorpusError

_LOGITS = 2**25
"""Logits that are computed at once: those of a whole batch would take gigabytes with a large
vocabulary.
"""
_END_TOKENS = 8
"""Tokens beside those of the longest stop text whose end is looked at: a character may take
several.
"""

Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, and of the continuation that is scored after it; neither is empty."""

OnAnswered = Callable[[int], None]
"""Called with the number of requests answered so far, of all models together; may raise."""


@dataclass(slots=True)
class Scored:
    """Log-likelihood of a continuation, and whether each of its tokens is the model's first choice.

    first: the first choices, each after the continuation's own tokens before it.
    """

    log_likelihood: float = 0.0
    greedy: bool = True
    first: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Row:
    """Tokens that are read in one go. wanted: at each column, tokens to be scored and the requests
    that they belong to.

    going_on: rows that are read after this one, on its keys and values. n_requests: answered once
    all these are read.
    """

    tokens: tuple[int, ...]
    wanted: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    going_on: "list[_Row]" = field(default_factory=list)
    n_requests: int = 0

    def want(self, column: int, tokens: Sequence[int], request: int) -> None:
        """Score these tokens, the first of them at this column."""
        for i, token in enumerate(tokens):
            self.wanted[column + i].append((token, request))


@torch.inference_mode()
def score_continuations(
    loaded: LoadedModel,
    models: Sequence[Applied],
    requests: Sequence[Request],
    on_answered: OnAnswered,
) -> list[list[Scored]]:
    """The scores of every request by each model, in their order. A context that is too long loses
    its beginning.

    Raises CorpusError for a continuation that is longer than the model can read, CalibrationError
    where predictions are no numbers.
    """
    rows = _rows(requests, loaded.max_length, share=not loaded.residency.streamed)
    numbered = loaded.batches([row.tokens for row in rows], BATCH_TOKENS)
    batches = [([rows[place] for place in places], batch) for places, batch in numbered]
    found = [[Scored() for _ in requests] for _ in models]
    n_done = 0
    for own, units in _groups(loaded, models, batches):
        with models[own[0]]() if len(own) == 1 else nullcontext():
            for together in units:
                reads = [(number, rows, batch) for rows, batch in together for number in own]
                inside = [
                    nullcontext if len(own) == 1 else models[number] for number, _, _ in reads
                ]
                asked = [(found[number], rows, batch) for number, rows, batch in reads]
                _score_(loaded, inside, asked, partial(on_answered, n_done))
                n_done += len(own) * sum(row.n_requests for read, _ in together for row in read)
                on_answered(n_done)
                loaded.residency.drop()
    return found


_Batch = tuple[list[_Row], Batch]


def _groups(
    loaded: LoadedModel, models: Sequence[Applied], batches: Sequence[_Batch]
) -> Iterator[tuple[list[int], list[list[_Batch]]]]:
    """The models that read together, and the batches that do: in memory each by itself."""
    if not loaded.residency.streamed:
        yield from (([number], [[batch] for batch in batches]) for number in range(len(models)))
        return
    left, units = list(batches), list[list[_Batch]]()
    while left:
        n = n_fitting((len(models) * batch.ids.numel() for _, batch in left), TOGETHER_TOKENS)
        units.append(left[:n])
        left = left[n:]
    yield list(range(len(models))), units


def _rows(requests: Sequence[Request], max_length: int, *, share: bool) -> list[_Row]:
    """What has to be read, each once. share: contexts are read by themselves where several
    continuations follow.
    """
    whole, by_context = dict[tuple[int, ...], _Row](), defaultdict[tuple[int, ...], list[int]](list)
    for i, (context, continuation) in enumerate(requests):
        if len(continuation) > max_length:
            raise CorpusError(
                f"A continuation of {len(continuation):,} tokens is longer than the model can read."
            )
        fits = len(context) + len(continuation) <= max_length
        # A single token costs less to read again than to keep.
        is_shared = share and fits and len(context) > 1
        by_context[tuple(context) if is_shared else (*context, -i - 1)].append(i)
    rows = []
    for context, own in by_context.items():
        tails = {tuple(requests[i][1][:-1]) for i in own}
        if len(tails) > 1:
            after = {tail: _Row(tail) for tail in sorted(tails) if tail}
            rows.append(row := _Row(context, going_on=list(after.values()), n_requests=len(own)))
            for i in own:
                first, *rest = requests[i][1]
                row.want(len(context) - 1, [first], i)
                if rest:
                    after[tuple(requests[i][1][:-1])].want(0, rest, i)
            continue
        for i in own:
            context_ids, continuation = requests[i]
            read = (*context_ids, *continuation)[-max_length - 1 :][:-1]
            row = whole.setdefault(read, _Row(read))
            row.want(len(read) - len(continuation), continuation, i)
            row.n_requests += 1
    return [*rows, *whole.values()]


def _score_(
    loaded: LoadedModel,
    inside: Sequence[Applied],
    reads: Sequence[tuple[list[Scored], list[_Row], Batch]],
    on_block: Callable[[], None],
) -> None:
    """Read these batches, each as one model, and add to their scores, in place."""
    shared = any(row.going_on for _, rows, _ in reads for row in rows)
    caches = [DynamicCache() for _ in reads] if shared else []
    walk = loaded.walk([batch for *_, batch in reads], caches)
    walk.run(inside, lambda _: on_block())
    for number, (found, rows, _) in enumerate(reads):
        _add_scores_(loaded, walk, number, rows, found)
        if shared:
            _score_rest_(loaded, rows, caches[number], found, on_block)


def _score_rest_(
    loaded: LoadedModel,
    rows: Sequence[_Row],
    cache: Cache,
    found: list[Scored],
    on_block: Callable[[], None],
) -> None:
    """Read what follows these rows, whose keys and values are in the cache, and add to the scores,
    in place.
    """
    left = [(number, after) for number, row in enumerate(rows) for after in row.going_on]
    left.sort(key=lambda each: -len(each[1].tokens))
    longest = max((len(row.tokens) for row in rows if row.going_on), default=0)
    a_token = loaded.cache_per_token
    while left:
        n_new = len(left[0][1].tokens)
        n = max(1, min(BATCH_TOKENS // n_new, CACHE_BYTES // (a_token * (longest + n_new))))
        # Each row has room in the model's context; padded to the longest, all must have (the mask
        # of GPT-Neo).
        while max(len(rows[number].tokens) for number, _ in left[:n]) + n_new > loaded.max_length:
            n -= 1
        by_length = defaultdict[int, list[tuple[int, _Row]]](list)
        for number, after in left[:n]:
            by_length[len(rows[number].tokens)].append((number, after))
        _score_part_(loaded, by_length, cache, found, on_block)
        left = left[n:]


def _score_part_(
    loaded: LoadedModel,
    parts: Mapping[int, Sequence[tuple[int, _Row]]],
    cache: Cache,
    found: list[Scored],
    on_block: Callable[[], None],
) -> None:
    """The same of one batch. parts: rows with their places in the cache, by the number of tokens
    read before them.
    """
    after = [row for own in parts.values() for _, row in own]
    n_new, longest, going = max(len(row.tokens) for row in after), max(parts), DynamicCache()
    for layer in cache.layers:
        held = [
            tuple(
                of[[number for number, _ in own], :, :length] for of in (layer.keys, layer.values)
            )
            for length, own in parts.items()
        ]
        going.layers.append(
            PreallocatedLayer.right_aligned([(keys, values) for keys, values in held], n_new)
        )
    device = loaded.model.device
    lengths = torch.tensor([length for length, own in parts.items() for _ in own], device=device)[
        :, None
    ]
    columns = torch.arange(longest + n_new, device=device)
    given = {
        # What is padded on the right no real token sees.
        "attention_mask": (columns >= longest - lengths).long(),
        # A padded column may lie beyond the model's table of positions.
        "position_ids": (lengths + columns[:n_new]).clamp(max=loaded.max_length - 1),
    }
    pad = loaded.tokenizer.pad_token_id or 0
    ids = torch.tensor(
        [[*row.tokens, *[pad] * (n_new - len(row.tokens))] for row in after], device=device
    )
    batch = Batch(ids, given["attention_mask"], given)
    walk = loaded.walk([batch], [going])
    walk.run([nullcontext], lambda _: on_block())
    _add_scores_(loaded, walk, 0, after, found)


def _add_scores_(
    loaded: LoadedModel, walk: BlockWalk, number: int, rows: Sequence[_Row], found: list[Scored]
) -> None:
    """Add what a batch after its last block says of the tokens that its rows want, in place."""
    places = [
        (n, column, wanted) for n, row in enumerate(rows) for column, wanted in row.wanted.items()
    ]
    n_at_once = max(1, _LOGITS // loaded.model.get_input_embeddings().weight.shape[0])
    for start in range(0, len(places), n_at_once):
        some, device = places[start : start + n_at_once], loaded.model.device
        where = (torch.tensor([place[axis] for place in some], device=device) for axis in (0, 1))
        with head_sees_only(loaded.model, *where):
            logits = walk.output(loaded.model, number).logits.float()
        whole, first = logits.logsumexp(dim=-1), logits.argmax(dim=-1).tolist()
        if not bool(whole.isfinite().all()):
            raise CalibrationError(
                "The model's predictions are NaN or infinite.", "Remove less, or run in float32."
            )
        at = [
            (i, token, request) for i, (*_, wanted) in enumerate(some) for token, request in wanted
        ]
        lines, tokens = (torch.tensor([one[axis] for one in at], device=device) for axis in (0, 1))
        scores = (logits[lines, tokens] - whole[lines]).tolist()
        for (i, token, request), score in zip(at, scores, strict=True):
            found[request].log_likelihood += min(0.0, score)
            found[request].greedy &= first[i] == token
            found[request].first.append(first[i])


@torch.inference_mode()
def write_greedily(
    loaded: LoadedModel,
    models: Sequence[Applied],
    prompts: Sequence[Sequence[int]],
    n_new: int,
    stops: Sequence[str],
    on_answered: OnAnswered,
) -> list[list[str]]:
    """What each model writes after each prompt: n_new tokens at most, always its first choice, up
    to any stop text.

    A prompt that leaves no room for them loses its beginning. Raises CorpusError where no prompt
    does.
    """
    most = loaded.max_length - n_new
    if most < 1:
        raise CorpusError(
            f"{n_new:,} written tokens are more than the model's {loaded.max_length:,}."
        )
    read = [list(prompt)[-most:] for prompt in prompts]
    found = [[""] * len(prompts) for _ in models]
    n_done, streamed = 0, loaded.residency.streamed
    for own in (
        [list(range(len(models)))] if streamed else [[number] for number in range(len(models))]
    ):
        with nullcontext() if streamed else models[own[0]]():
            inside = [models[number] if streamed else nullcontext for number in own]
            for places in _written_together(loaded, read, n_new, len(own)):
                on_block = partial(on_answered, n_done)
                texts = _write(
                    loaded, inside, [read[place] for place in places], n_new, stops, on_block
                )
                for number, written in zip(own, texts, strict=True):
                    for place, text in zip(places, written, strict=True):
                        found[number][place] = text
                n_done += len(own) * len(places)
                on_answered(n_done)
                loaded.residency.drop()
    return found


def _written_together(
    loaded: LoadedModel, read: Sequence[Sequence[int]], n_new: int, n_models: int
) -> Iterator[list[int]]:
    """Positions of prompts that are continued together, the longest first, as their keys and values
    have room.
    """
    a_token = n_models * loaded.cache_per_token
    left = sorted(range(len(read)), key=lambda i: -len(read[i]))
    while left:
        n = texts_at_once(a_token * (len(read[left[0]]) + n_new))
        yield left[:n]
        left = left[n:]


def _write(
    loaded: LoadedModel,
    inside: Sequence[Applied],
    read: Sequence[list[int]],
    n_new: int,
    stops: Sequence[str],
    on_block: Callable[[], None],
) -> list[list[str]]:
    """The texts of each model after these prompts."""
    device, decode = loaded.model.device, loaded.tokenizer.decode
    ends, n_last = _ends(loaded), max([0, *map(len, stops)]) + _END_TOKENS

    def is_finished(tokens: Sequence[int]) -> bool:
        return tokens[-1] in ends or any(stop in decode(tokens[-n_last:]) for stop in stops)

    begun, parts = [[list[int]() for _ in read] for _ in inside], []
    for places, batch in loaded.batches(read, BATCH_TOKENS):
        caches = [DynamicCache() for _ in inside]
        walk = loaded.walk([batch] * len(inside), caches)
        walk.run(inside, lambda _: on_block())
        last = torch.tensor([len(read[place]) - 1 for place in places], device=device)
        for number, (applied, cache) in enumerate(zip(inside, caches, strict=True)):
            with head_sees_only(loaded.model, torch.arange(len(places), device=device), last):
                first = walk.output(loaded.model, number).logits.argmax(dim=-1).tolist()
            for place, token in zip(places, first, strict=True):
                begun[number][place].append(token)
            own = [begun[number][place] for place in places]
            n_context = [len(read[place]) for place in places]
            parts += unfinished_answers(loaded, applied, cache, n_context, own, is_finished)
    finish_answers_(loaded, parts, lambda _: on_block(), is_finished, n_new - 1)
    return [[_text(loaded, tokens, stops) for tokens in own] for own in begun]


def _ends(loaded: LoadedModel) -> set[int | None]:
    """Tokens that end a text: the tokenizer's too, as in the harness."""
    return {*loaded.eos_ids, loaded.tokenizer.eos_token_id}


def _text(loaded: LoadedModel, tokens: Sequence[int], stops: Sequence[str]) -> str:
    end = next((i for i, token in enumerate(tokens) if token in _ends(loaded)), len(tokens))
    text = str(loaded.tokenizer.decode(tokens[:end], skip_special_tokens=True))
    for stop in stops:
        text = text.split(stop)[0]
    return text
