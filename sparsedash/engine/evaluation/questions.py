"""Evaluation questions: passages chosen from a corpus, tokenised; leaks into calibration."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.records import Passages
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.schema.store_keys import passages_key
from sparsedash.storage.text_files import split_passage

N_GRAM = 13
MIN_WORDS = 8


@dataclass(frozen=True)
class Question:
    """Token ids of one passage: context and target. words_cut: of a context that is too long."""

    context: list[int]
    target: list[int]
    words_cut: int = 0

    @classmethod
    def of(cls, loaded: LoadedModel, context: str, target: str) -> "Question":
        """Context and target in tokens; too long a context loses its beginning, but for BOS.

        Raises CorpusError for a target that is longer than the model can read.
        """
        front, whole = loaded.prefix_and_ids(context + target)
        n_context = len(loaded.prefix_and_ids(context)[1])
        if len(whole) <= n_context:
            # The last word merged into the context's last token; the model can only be asked for
            # that token.
            n_context = len(whole) - 1
        start = max(0, len(front) + len(whole) - loaded.max_length - 1)
        if start > n_context or not front + whole[start:n_context]:
            raise CorpusError(
                f"The target {target[:40]!r} is longer than the model can read."
            )
        words_cut = len(loaded.tokenizer.decode(whole[:start]).split())
        return cls(front + whole[start:n_context], whole[n_context:], words_cut)

    @property
    def read(self) -> list[int]:
        """The input of the model; it never sees the last target token."""
        return (self.context + self.target)[:-1]


def distinct_passages(texts: Texts) -> list[int]:
    """Positions of the passages that repeat no earlier one, up to white space.

    A repeated passage adds no evidence, but every paired test would count it as independent.
    """
    first = {
        " ".join(text.split()): index
        for index, text in reversed(list(enumerate(texts.texts)))
    }
    return sorted(first.values())


def n_leaked(passages: Passages, calibration: Iterable[str]) -> int:
    """Number of passages that share N_GRAM consecutive words with the calibration text.

    A shorter passage counts if all its words occur in a row.

    Passages of fewer than MIN_WORDS do not count: their words may occur anywhere.
    Source: Brown et al., arXiv:2005.14165, appendix C, contamination by 13-grams.
    """
    texts = [text.split() for text in calibration]
    passage_words = [
        f"{c}{t}".split()
        for c, t in zip(passages.contexts, passages.targets, strict=True)
    ]
    passage_words = [words for words in passage_words if len(words) >= MIN_WORDS]
    seen = dict[int, set[int]]()
    for n in {min(N_GRAM, len(words)) for words in passage_words}:
        seen[n] = set(chain.from_iterable(_grams(words, n) for words in texts))
    return sum(
        not seen[min(N_GRAM, len(words))].isdisjoint(_grams(words, N_GRAM))
        for words in passage_words
    )


def _grams(words: Sequence[str], n: int) -> Iterator[int]:
    """Hashes of the runs of n words; of all words where there are fewer."""
    n = min(n, len(words))
    return (hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1))


def choose_passages(texts: Texts, settings: EvaluationSettings) -> Passages:
    """The passages to evaluate, in corpus order, each once and cut before its last word.

    Raises CorpusError for a passage that is a single word.
    """
    order = distinct_passages(texts)
    if settings.shuffle_seed is not None:
        Random(settings.shuffle_seed).shuffle(order)
    indices = tuple(sorted(order[: settings.n_passages]))
    contexts, targets = zip(
        *(_split(texts.texts[index], index) for index in indices), strict=True
    )
    return Passages(
        key=passages_key(texts.identity, settings),
        indices=indices,
        contexts=contexts,
        targets=targets,
    )


def questions_of(
    loaded: LoadedModel, pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Passages as plain values for another program.

    `ids` of context and target, `n_target` of them the target's, and the `text` with its `tokens`,
    encoded with `special` tokens or without.

    pairs: context and target of each passage.
    """
    questions = []
    for context, target in pairs:
        question = Question.of(loaded, context, target)
        text = context + target
        special = loaded.adds_special_tokens(context)
        ids = question.context + question.target
        tokens = loaded.tokenizer(text, add_special_tokens=special).input_ids
        questions.append(
            {
                "ids": ids,
                "n_target": len(question.target),
                "text": text,
                "special": special,
                "tokens": tokens,
            }
        )
    return questions


def _split(text: str, index: int) -> tuple[str, str]:
    parts = split_passage(text)
    if parts is None:
        raise CorpusError(
            f"Passage {index + 1} has no last word after a context: {text[:40]!r}.",
            "Each passage needs several words and must end with its target.",
        )
    return parts
