"""Last-word answers to passages: right or wrong, how likely the right word was, and what was said instead.

The rule is the common harness's `lambada_openai`: context = text up to the last space, target = " " + last word, target
tokens = enc(context + target) after enc(context); right when each of them is the model's first choice.

The published runs judged the last token alone, over passages padded to 196 tokens. A longer passage was cut to its first
196, and its answer was looked for at a place that does not belong to it: the `published` rule counts it as wrong.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sparsedash.canonical import digest
from sparsedash.engine.answers import finish_words
from sparsedash.engine.blocks import Batch, batches_by_length
from sparsedash.engine.corpora import Texts
from sparsedash.engine.models import LoadedModel
from sparsedash.errors import CorpusError
from sparsedash.progress import OnStep
from sparsedash.records import Candidate, Outcome, Passages, TargetToken
from sparsedash.settings import EvaluationSettings, Rule

BATCH_TOKENS = 2048
N_TOP = 5
PUBLISHED_PADDING = 196


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Outcomes in corpus order, and how fast they came: input tokens, padding not counted."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    n_tokens: int


@dataclass(frozen=True)
class _Question:
    """Token ids of one passage: the context and the target after it."""

    context: list[int]
    target: list[int]

    @property
    def read(self) -> list[int]:
        """What the model reads; it never sees the last target token."""
        return (self.context + self.target)[:-1]


def choose_passages(texts: Texts, settings: EvaluationSettings) -> Passages:
    """The passages that are answered, in corpus order, each cut before its last word.

    Raises CorpusError for a passage that is a single word.
    """
    order = list(range(len(texts.texts)))
    if settings.shuffle_seed is not None:
        Random(settings.shuffle_seed).shuffle(order)
    indices = tuple(sorted(order[: settings.n_passages]))
    pairs = [_split(texts.texts[index], index) for index in indices]
    return Passages(
        key=digest([texts.identity, settings.n_passages, settings.shuffle_seed]),
        indices=indices,
        contexts=tuple(context for context, _ in pairs),
        targets=tuple(target for _, target in pairs),
    )


@torch.inference_mode()
def evaluate(
    loaded: LoadedModel,
    passages: Passages,
    on_step: OnStep,
    message: str = "",
    rule: Rule = "plain",
) -> Evaluated:
    """Ask the model for the last word of every passage. message: which model this is, for the progress line."""
    questions = [
        _question(loaded, context, target)
        for context, target in zip(passages.contexts, passages.targets, strict=True)
    ]
    reads = [question.read for question in questions]
    pad = loaded.tokenizer.pad_token_id or 0
    outcomes: dict[int, Outcome] = {}
    started = time.perf_counter()
    on_step("evaluate", 0, len(questions), unit="passages", message=message)
    for rows, batch in batches_by_length(reads, BATCH_TOKENS, pad, loaded.model.device):
        answered = _answer(loaded, [questions[row] for row in rows], batch)
        for row, (verdict, answer) in zip(rows, answered, strict=True):
            index = passages.indices[row]
            outcome = _outcome(loaded, index, passages.targets[row], verdict, answer)
            outcomes[row] = _judged(outcome, questions[row], rule)
        on_step("evaluate", len(outcomes), len(questions), unit="passages", message=message)
    return Evaluated(
        outcomes=tuple(outcomes[row] for row in range(len(questions))),
        seconds=time.perf_counter() - started,
        n_tokens=sum(map(len, reads)),
    )


@dataclass(frozen=True, eq=False)
class _Verdict:
    """What the model thought of one target of n tokens: their ids, log-likelihoods, ranks, and its own choices (n,)."""

    target: list[int]
    log_likelihoods: list[float]
    ranks: list[int]
    choices: list[int]
    top_ids: list[int]
    top_probabilities: list[float]


def _split(text: str, index: int) -> tuple[str, str]:
    context, space, word = text.rstrip("\n").rpartition(" ")
    if not context.strip() or not word:
        raise CorpusError(
            f"Passage {index + 1} has no last word after a context: {text[:40]!r}.",
            "Each passage needs several words and must end with its target.",
        )
    # White space at the end of the context belongs to the target, or the words would be encoded otherwise.
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + space + word


def _question(loaded: LoadedModel, context: str, target: str) -> _Question:
    tokenizer = loaded.tokenizer
    bos = tokenizer.bos_token
    special = not (bos and context.startswith(bos))
    whole = tokenizer(context + target, add_special_tokens=special).input_ids
    n_context = len(tokenizer(context, add_special_tokens=special).input_ids)
    if len(whole) <= n_context:
        # The last word merged into the context's last token; the model can only be asked for that token.
        n_context = len(whole) - 1
    start = max(0, len(whole) - loaded.max_length - 1)
    if start >= n_context:
        raise CorpusError(f"The target {target[:40]!r} is longer than the model can read.")
    return _Question(whole[start:n_context], whole[n_context:])


def _answer(
    loaded: LoadedModel, questions: Sequence[_Question], batch: Batch
) -> list[tuple[_Verdict, str]]:
    rows = [row for row, question in enumerate(questions) for _ in question.target]
    columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
    device = batch.ids.device
    where = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
    # Made here without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
    cache = DynamicCache()
    with _head_sees_only(loaded.model, *where):
        output = loaded.model(
            # Padding is on the right, where a causal model's real tokens never look: no mask, and attention is faster.
            input_ids=batch.ids,
            cache=cache,
            use_cache=True,
        )
    verdicts = list(_verdicts(output.logits[0].float(), questions))
    words = finish_words(
        loaded,
        batch.mask,
        cache,
        [len(q.context) for q in questions],
        [_first_wrong(verdict) for verdict in verdicts],
    )
    return [
        (verdict, loaded.tokenizer.decode(verdict.target) if word is None else word)
        for verdict, word in zip(verdicts, words, strict=True)
    ]


@contextmanager
def _head_sees_only(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, the output head is given the hidden states at these places only, as one row (1, n, d).

    A vocabulary's worth of logits at every position would cost a fifth of the time and most of the memory.
    """
    head: nn.Module = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns][None],))
    try:
        yield
    finally:
        handle.remove()


def _verdicts(logits: Tensor, questions: Sequence[_Question]) -> Iterator[_Verdict]:
    """logits: (n, vocabulary), the target tokens of all questions one after another."""
    targets = torch.tensor([t for q in questions for t in q.target], device=logits.device)
    log_probabilities = logits.log_softmax(dim=-1)
    of_target = log_probabilities.gather(1, targets[:, None])
    ranks = (log_probabilities > of_target).sum(dim=1).add_(1)
    choices = logits.argmax(dim=-1)
    top = log_probabilities.topk(min(N_TOP, logits.shape[1]), dim=-1)
    start = 0
    for question in questions:
        stop = start + len(question.target)
        yield _Verdict(
            target=question.target,
            log_likelihoods=of_target[start:stop, 0].tolist(),
            ranks=ranks[start:stop].tolist(),
            choices=choices[start:stop].tolist(),
            top_ids=top.indices[start].tolist(),
            top_probabilities=top.values[start].exp().tolist(),
        )
        start = stop


def _first_wrong(verdict: _Verdict) -> list[int] | None:
    """What the model writes up to and including its first token that is not the target's; None where all are."""
    for i, (choice, target) in enumerate(zip(verdict.choices, verdict.target, strict=True)):
        if choice != target:
            return [*verdict.target[:i], choice]
    return None


def _judged(outcome: Outcome, question: _Question, rule: Rule) -> Outcome:
    """The outcome with its last token judged by the rule; the last word has one rule only."""
    too_long = len(question.context) + len(question.target) > PUBLISHED_PADDING
    return replace(outcome, last_token_right=False) if rule == "published" and too_long else outcome


def _outcome(
    loaded: LoadedModel, index: int, target: str, verdict: _Verdict, answer: str
) -> Outcome:
    texts = [loaded.tokenizer.decode([token]) for token in verdict.target]
    return Outcome(
        index=index,
        target=target.strip(),
        answer=answer.strip() or "(line break)",
        last_word_right=verdict.choices == verdict.target,
        last_token_right=verdict.choices[-1] == verdict.target[-1],
        log_likelihood=sum(verdict.log_likelihoods),
        tokens=tuple(
            TargetToken(text=text, log_likelihood=log_likelihood, rank=rank)
            for text, log_likelihood, rank in zip(
                texts, verdict.log_likelihoods, verdict.ranks, strict=True
            )
        ),
        top=tuple(
            Candidate(text=loaded.tokenizer.decode([token]), probability=probability)
            for token, probability in zip(verdict.top_ids, verdict.top_probabilities, strict=True)
        ),
    )
