"""Answers of several models to the same requests, computed together by our evaluator."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from sparsedash.engine.evaluation.continuations import (
    OnAnswered,
    Request,
    Scored,
    score_continuations,
)
from sparsedash.engine.evaluation.greedy_texts import write_greedily
from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.loading import LoadedModel

T = TypeVar("T")


class SharedAnswers:
    """Answers of several models, computed for all when the first is requested.

    on_answered: see continuations. n_cut: requests that exceed the model's context and lose their
    beginning.
    """

    def __init__(
        self, loaded: LoadedModel, models: Sequence[Applied], on_answered: OnAnswered
    ) -> None:
        self.loaded = loaded
        self._models = models
        self._on_answered = on_answered
        self._known: dict[str, Any] = {}
        self._n_before = self.n_cut = 0

    def scores(
        self, requests: Sequence[Request], n_asked: int
    ) -> list[list[tuple[float, bool]]]:
        """Each model's log-likelihoods of these continuations, and whether they are greedy.

        n_asked: the harness's requests; a document may be several continuations.
        """

        def answer() -> list[list[tuple[float, bool]]]:
            scores = self._scored(requests, n_asked)
            return [
                list(map(attrgetter("log_likelihood", "greedy"), model_scores))
                for model_scores in scores
            ]

        return self._once(["scores", requests], n_asked, answer)

    def first_choices(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Each model's first choice at every token of these continuations."""

        def answer() -> list[list[list[int]]]:
            scores = self._scored(requests, len(requests))
            return [
                list(map(attrgetter("first"), model_scores)) for model_scores in scores
            ]

        return self._once(["first choices", requests], len(requests), answer)

    def texts(
        self, prompts: Sequence[str], n_new: int, stops: Sequence[str], front: int
    ) -> list[list[str]]:
        """Continuations of these prompts by each model. front: stands for a prompt without tokens."""

        def answer() -> list[list[str]]:
            tokens = [self.loaded.tokens(prompt) or [front] for prompt in prompts]
            self._count_cut(len(prompt) + n_new for prompt in tokens)
            return write_greedily(
                self.loaded, self._models, tokens, n_new, stops, self._answered
            )

        return self._once(["texts", prompts, n_new, stops], len(prompts), answer)

    def _scored(self, requests: Sequence[Request], n_asked: int) -> list[list[Scored]]:
        self._count_cut(
            len(context) + len(continuation) - 1 for context, continuation in requests
        )
        return score_continuations(
            self.loaded,
            self._models,
            requests,
            lambda n: self._answered(n * n_asked // len(requests)),
        )

    def _once(self, request: list[Any], n_requests: int, answer: Callable[[], T]) -> T:
        if len(self._models) == 1:
            # It asks once: naming a million tokens and keeping their answers would be for nothing.
            answers = answer()
            self._n_before += n_requests
            return answers
        name = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        if name not in self._known:
            self._known[name] = answer()
            self._n_before += n_requests * len(self._models)
        known: T = self._known[name]
        return known

    def _count_cut(self, lengths: Iterable[int]) -> None:
        self.n_cut += sum(length > self.loaded.max_length for length in lengths)

    def _answered(self, n: int) -> None:
        self._on_answered(self._n_before + n)
