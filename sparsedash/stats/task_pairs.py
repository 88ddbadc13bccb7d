"""Two models' answers to the same questions: which were asked alike, and why others cannot be
compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import (
    AnsweredQuestion,
    QuestionSet,
    known_direction,
    pool_parts,
)


@dataclass(frozen=True, kw_only=True)
class TaskPair:
    """Two models' answers to one task. questions: those that both answered, the dense model's
    first, each once.

    n_repeated: questions that repeat another one, which all tests would take for independent.
    n_alone: of one model.
    """

    dense: QuestionSet
    other: QuestionSet
    questions: tuple[tuple[AnsweredQuestion, AnsweredQuestion], ...]
    n_repeated: int
    n_alone: int


def pair_answers(dense: QuestionSet, other: QuestionSet) -> TaskPair:
    """The questions that both answered.

    Raises CorpusError where the two were asked or judged differently.
    """
    task = dense.task
    for what, values in (
        ("versions", (dense.version, other.version)),
        ("measures", (dense.measure_label, other.measure_label)),
        ("filters", (dense.filter, other.filter)),
    ):
        if all(values) and len(set(values)) > 1:
            raise CorpusError(
                f"{task} was judged by different {what}: {' and '.join(values)}."
            )
    for answers in (dense, other):
        if answers.kind != "rolling":
            known_direction(task, answers.measure, answers.higher_is_better)
    # A file may have any name, so that of its only part says nothing.
    in_parts = (
        max(
            len({question.part for question in dense.questions}),
            len({question.part for question in other.questions}),
        )
        > 1
    )
    by_dense = _by_document(dense, in_parts)
    by_other = _by_document(other, in_parts)
    pairs = [(one, by_other[key]) for key, one in by_dense.items() if key in by_other]
    if not pairs:
        raise CorpusError(f"The two have no question of {task} in common.")
    for what, property_of in (
        ("prompt", attrgetter("prompt_hash")),
        ("expected answer", attrgetter("target_hash")),
        ("kind of answer", attrgetter("kind", "n_bytes", "n_words")),
        (
            "text of the choices",
            lambda question: [choice.text for choice in question.choices],
        ),
    ):
        n = sum(property_of(one) != property_of(two) for one, two in pairs)
        if n:
            raise CorpusError(
                f"{task} was asked differently: the {what} differs in {n:,} of {len(pairs):,} questions.",
                "Ask both models with the same program, examples and template.",
            )
    return TaskPair(
        dense=dense,
        other=other,
        questions=tuple(pairs),
        n_repeated=max(
            len(dense.questions) - len(by_dense), len(other.questions) - len(by_other)
        ),
        n_alone=len(by_dense.keys() ^ by_other.keys()),
    )


def _by_document(
    answers: QuestionSet, in_parts: bool
) -> dict[tuple[str, str], AnsweredQuestion]:
    """Questions by part and hash of the document, the first of each."""
    questions: dict[tuple[str, str], AnsweredQuestion] = {}
    for question in answers.questions:
        questions.setdefault(
            (question.part if in_parts else "", question.doc_hash), question
        )
    return questions


def pair_tasks(
    dense: Sequence[QuestionSet], other: Sequence[QuestionSet]
) -> tuple[list[TaskPair], list[str]]:
    """The tasks that both answered, and sentences on what only one did. Raises CorpusError where
    there are none.

    Two files of one task each are that task, whatever their names.
    """
    if len(dense) == len(other) == 1:
        pairs = [pair_answers(dense[0], other[0])]
    else:
        by_task = {answers.task: answers for answers in other}
        pairs = [
            pair_answers(answers, by_task[answers.task])
            for answers in dense
            if answers.task in by_task
        ]
    paired = [pair.dense for pair in pairs] + [pair.other for pair in pairs]
    notes = [
        f"Questions of {answers.task} left out: {len(answers.questions):,}, answered by one model only."
        for answers in (*dense, *other)
        if answers not in paired
    ]
    if not pairs:
        raise CorpusError("The two have no task in common.", " ".join(notes))
    for pair in pairs:
        omitted = f"Questions of {pair.dense.task} left out"
        if pair.n_alone:
            notes.append(f"{omitted}: {pair.n_alone:,}, answered by one model only.")
        if pair.n_repeated:
            notes.append(f"{omitted}: {pair.n_repeated:,}, repeats of another.")
        for name, answers in (("dense", pair.dense), ("the other model", pair.other)):
            for reason, n in answers.omitted.items():
                notes.append(f"{omitted}: {n:,} of {name}, {reason}.")
    return pairs, notes


def pairs_of(
    dense: Sequence[QuestionSet], other: Sequence[QuestionSet]
) -> tuple[list[TaskPair], list[str]]:
    """The tasks that can be judged, and sentences on the others."""
    pairs = list[TaskPair]()
    notes = list[str]()
    for task in dict.fromkeys(answers.task for answers in (*dense, *other)):
        of_dense = [answers for answers in dense if answers.task == task]
        of_other = [answers for answers in other if answers.task == task]
        if not of_dense or not of_other:
            notes.append(f"{task} is not judged: only one model answered it.")
            continue
        try:
            task_pairs, task_notes = pair_tasks(
                pool_parts(of_dense), pool_parts(of_other)
            )
        except CorpusError as error:
            notes.append(f"{task} is not judged. {error}")
            continue
        pairs += task_pairs
        notes += task_notes
    return pairs, notes
