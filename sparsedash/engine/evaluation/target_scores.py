"""How a model scores the target tokens of its passages, and the outcome that follows from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.records import Candidate, Outcome, TargetToken

N_TOP = 5


@dataclass(frozen=True, eq=False)
class TargetScore:
    """How the model scored one target of n tokens: their ids, log-likelihoods, ranks, and its own choices (n,).

    top_ids, top_probabilities: its first choices for the first of them.
    """

    target: list[int]
    log_likelihoods: list[float]
    ranks: list[int]
    choices: list[int]
    top_ids: list[int]
    top_probabilities: list[float]

    @property
    def first_wrong(self) -> list[int] | None:
        """What the model writes up to and including its first token that is not the target's; None where all are."""
        for i, (choice, target) in enumerate(zip(self.choices, self.target, strict=True)):
            if choice != target:
                return [*self.target[:i], choice]
        return None


def target_scores(logits: Tensor, targets: Sequence[list[int]]) -> Iterator[TargetScore]:
    """The score of each target. logits: (n, vocabulary), for the tokens of all targets one after another.

    Raises CalibrationError where they are no numbers: what is made of them would be no answer.
    """
    if not bool(logits.isfinite().all()):
        raise CalibrationError(
            "The model's predictions are NaN or infinite.", "Remove less, calibrate on more text, or run in float32."
        )
    tokens = torch.tensor([token for target in targets for token in target], device=logits.device)
    log_probabilities = logits.log_softmax(dim=-1)
    of_target = log_probabilities.gather(1, tokens[:, None])
    ranks = (log_probabilities > of_target).sum(dim=1).add_(1)
    choices = logits.argmax(dim=-1)
    top = log_probabilities.topk(min(N_TOP, logits.shape[1]), dim=-1)
    start = 0
    for target in targets:
        stop = start + len(target)
        yield TargetScore(
            target=target,
            log_likelihoods=of_target[start:stop, 0].tolist(),
            ranks=ranks[start:stop].tolist(),
            choices=choices[start:stop].tolist(),
            top_ids=top.indices[start].tolist(),
            top_probabilities=top.values[start].exp().tolist(),
        )
        start = stop


def outcome(decode: Callable[[list[int]], str], index: int, target: str, score: TargetScore, answer: str) -> Outcome:
    """The outcome of one passage, with the word that the model wrote. decode: token ids to text."""
    texts = [decode([token]) for token in score.target]
    return Outcome(
        index=index,
        target=target.strip(),
        answer=answer.strip() or "(line break)",
        last_word_right=score.choices == score.target,
        last_token_right=score.choices[-1] == score.target[-1],
        log_likelihood=sum(score.log_likelihoods),
        tokens=tuple(
            TargetToken(text=text, log_likelihood=log_likelihood, rank=rank)
            for text, log_likelihood, rank in zip(texts, score.log_likelihoods, score.ranks, strict=True)
        ),
        top=tuple(
            Candidate(text=decode([token]), probability=probability)
            for token, probability in zip(score.top_ids, score.top_probabilities, strict=True)
        ),
    )
