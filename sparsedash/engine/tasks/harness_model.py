"""Models as lm-evaluation-harness asks them: its requests in tokens, answered by our evaluator."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.schema.errors import CorpusError


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """One of the models, as the harness's `evaluate` takes it."""

    def __init__(self, answers: SharedAnswers, number: int) -> None:
        super().__init__()
        self._answers = answers
        self._number = number
        self._loaded = answers.loaded
        self.tokenizer = answers.loaded.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise CorpusError(
                "The model's tokenizer has no token for the end of a text, which tasks need."
            )
        return int(eos)

    @property
    def prefix_token_id(self) -> int:
        """Token before a continuation without a context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text. add_special_tokens: None: as the tokenizer does, if not there yet."""
        front, ids = self._loaded.prefix_and_ids(string)
        return ids if add_special_tokens is False else front + ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Any]:
        if not all(context and continuation for _, context, continuation in requests):
            raise CorpusError("A question has a choice without a token of its own.")
        return self._scores(requests, len(requests))

    def _scores(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], n_asked: int
    ) -> list[Any]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self._answers.scores(pairs, n_asked)[self._number]

    def loglikelihood(
        self, requests: Any, disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the first choice."""
        scores: list[tuple[float, bool]] = super().loglikelihood(
            requests, disable_tqdm=True
        )
        return scores

    def loglikelihood_rolling(
        self, requests: Any, disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows that do not overlap."""
        windows = list[tuple[None, list[int], list[int]]]()
        n_windows = []
        for (text,) in (request.args for request in requests):
            rolled = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._loaded.max_length,
                context_len=1,
            )
            text_windows = [(None, *make_disjoint_window(window)) for window in rolled]
            windows += text_windows
            n_windows.append(len(text_windows))
        scores = iter(self._scores(windows, len(requests)))
        log_likelihoods = (log_likelihood for log_likelihood, _ in scores)
        return [sum(islice(log_likelihoods, n)) for n in n_windows]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Continuations of each prompt: the model's first choices up to a stop text."""
        by_rules = dict[str, list[int]]()
        for place, request in enumerate(requests):
            by_rules.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(
                place
            )
        answers = [""] * len(requests)
        for places in by_rules.values():
            rules = normalize_gen_kwargs(requests[places[0]].args[1])
            stops = [stop for stop in rules.get("until") or () if stop]
            prompts = [requests[place].args[0] for place in places]
            texts = self._answers.texts(
                prompts, int(rules["max_gen_toks"]), stops, self.prefix_token_id
            )[self._number]
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
        return answers


class Nobody(LM):  # type: ignore[misc]
    """A stand-in model to try a task: nothing is probable, and it writes too much.

    target: gives what a document expects. What holds it and more is half right by measures that are
    not right or wrong.
    """

    def __init__(self, target: Callable[[Any], Any]) -> None:
        super().__init__()
        self._target = target

    def loglikelihood(
        self, requests: Any, disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Improbable, by no whole nats: a difference of 1 would pass for right or wrong."""
        return [(-1.3 * (i + 1), False) for i, _ in enumerate(requests)]

    def loglikelihood_rolling(
        self, requests: Any, disable_tqdm: bool = True
    ) -> list[float]:
        """Improbable."""
        return [-1.0 for _ in requests]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """What is expected, and more."""
        texts = []
        for request in requests:
            target = self._target(request.doc)
            if isinstance(target, list) and target:
                target = target[0]
            texts.append(f"{target} and more")
        return texts
