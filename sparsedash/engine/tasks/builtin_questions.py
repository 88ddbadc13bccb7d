"""The built-in tasks, answered without lm-evaluation-harness.

An answer is right where each of its tokens is the model's first choice: what greedy writing finds,
in a single read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from sparsedash.catalog.builtin_tasks import (
    BUILTIN_TASKS,
    BuiltinTask,
    DrawnQuestion,
    unknown_builtin,
)
from sparsedash.engine.evaluation.continuations import Request
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import AnsweredQuestion, QuestionSet
from sparsedash.storage.answers.parsed_answers import sha256_of


@dataclass(frozen=True, kw_only=True)
class BuiltinQuestions:
    """The questions of a built-in task that a run asks. limit: how many at most; None: all."""

    task: BuiltinTask
    limit: int | None
    n_written = 0

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def identity(self) -> str:
        """Digest of all that its answers depend on."""
        return self.task.identity(self.limit)

    @property
    def n_questions(self) -> int:
        """Number of questions asked."""
        return self.task.n_asked(self.limit)

    n_requests = n_questions

    def answer(self, answers: SharedAnswers, number: int) -> QuestionSet:
        """The answers of one of these models."""
        loaded = answers.loaded
        questions = self.task.questions(self.limit)
        requests = [_request(loaded, question) for question in questions]
        triples = zip(
            questions, requests, answers.first_choices(requests)[number], strict=True
        )
        return QuestionSet(
            model="",
            task=self.name,
            measure="exact_match",
            higher_is_better=True,
            questions=tuple(_answered(loaded, *triple) for triple in triples),
            points=self.task.points,
        )


def load_builtin(
    references: Sequence[str], limit: int | None
) -> tuple[list[BuiltinQuestions], list[str]]:
    """The built-in tasks among these references, and the others.

    Raises CorpusError for an unknown one.
    """
    if unknown := unknown_builtin(references):
        raise CorpusError(unknown)
    builtin = [
        BuiltinQuestions(task=BUILTIN_TASKS[reference], limit=limit)
        for reference in references
        if reference in BUILTIN_TASKS
    ]
    return builtin, [
        reference for reference in references if reference not in BUILTIN_TASKS
    ]


def _request(loaded: LoadedModel, question: DrawnQuestion) -> Request:
    whole = loaded.tokens(question.context + question.answer)
    n = len(loaded.tokens(question.context))
    # An answer that merges into the last token of its context is that token.
    n = min(n, len(whole) - 1)
    return whole[:n], whole[n:]


def _answered(
    loaded: LoadedModel, question: DrawnQuestion, request: Request, first: Sequence[int]
) -> AnsweredQuestion:
    """first: the model's first choices. After a wrong one they are not what it would write."""
    expected = request[1]
    n_right = sum(
        1
        for _ in takewhile(
            lambda pair: pair[0] == pair[1], zip(first, expected, strict=True)
        )
    )
    written = str(loaded.tokenizer.decode(first[: n_right + 1])).strip()
    return AnsweredQuestion(
        doc_hash=sha256_of(question.context),
        prompt_hash=sha256_of(question.context),
        target_hash=sha256_of(question.answer),
        context=question.context,
        target=question.answer.strip(),
        right=n_right == len(expected),
        text=written,
        answer=written,
        fields={"part": question.part},
    )
