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
    """The questions that both answered. Raises CorpusError where the two were asked or judged
    differently.
    """
    task = dense.task
    for what, left, right in (
        ("versions", dense.version, other.version),
        ("measures", dense.measure_label, other.measure_label),
        ("filters", dense.filter, other.filter),
    ):
        if left and right and left != right:
            raise CorpusError(f"{task} was judged by different {what}: {left} and {right}.")
    for answers in (dense, other):
        if answers.kind != "rolling":
            known_direction(task, answers.measure, answers.higher_is_better)
    # A file may have any name, so that of its only part says nothing.
    in_parts = any(
        len({question.part for question in each.questions}) > 1 for each in (dense, other)
    )
    asked, known = (_by_document(each, in_parts) for each in (dense, other))
    pairs = [(one, known[key]) for key, one in asked.items() if key in known]
    if not pairs:
        raise CorpusError(f"The two have no question of {task} in common.")
    for what, of in (
        ("prompt", attrgetter("prompt_hash")),
        ("expected answer", attrgetter("target_hash")),
        ("kind of answer", attrgetter("kind", "n_bytes", "n_words")),
        ("text of the choices", lambda question: [each.text for each in question.choices]),
    ):
        if n := sum(of(one) != of(two) for one, two in pairs):
            raise CorpusError(
                f"{task} was asked differently: the {what} differs in {n:,} of {len(pairs):,} questions.",
                "Ask both models with the same program, examples and template.",
            )
    return TaskPair(
        dense=dense,
        other=other,
        questions=tuple(pairs),
        n_repeated=max(len(dense.questions) - len(asked), len(other.questions) - len(known)),
        n_alone=len(asked.keys() ^ known.keys()),
    )


def _by_document(answers: QuestionSet, in_parts: bool) -> dict[tuple[str, str], AnsweredQuestion]:
    """Questions by part and hash of the document, the first of each."""
    found: dict[tuple[str, str], AnsweredQuestion] = {}
    for question in answers.questions:
        found.setdefault((question.part if in_parts else "", question.doc_hash), question)
    return found


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
        known = {each.task: each for each in other}
        pairs = [pair_answers(each, known[each.task]) for each in dense if each.task in known]
    judged = {id(each) for pair in pairs for each in (pair.dense, pair.other)}
    alone = [
        f"Only one model answered {each.task}."
        for each in (*dense, *other)
        if id(each) not in judged
    ]
    if not pairs:
        raise CorpusError("The two have no task in common.", " ".join(alone))
    for pair in pairs:
        for n, why in (
            (pair.n_alone, "answered by one model only"),
            (pair.n_repeated, "repeats of another"),
        ):
            if n:
                alone.append(f"Questions of {pair.dense.task} left out: {n:,}, {why}.")
    return pairs, alone


def pairs_of(
    dense: Sequence[QuestionSet], other: Sequence[QuestionSet]
) -> tuple[list[TaskPair], list[str]]:
    """The tasks that can be judged, and sentences on the others."""
    pairs = list[TaskPair]()
    notes = list[str]()
    for task in dict.fromkeys(each.task for each in (*dense, *other)):
        sides = [[each for each in side if each.task == task] for side in (dense, other)]
        if not all(sides):
            notes.append(f"{task} is not judged: only one model answered it.")
            continue
        try:
            found, own = pair_tasks(*map(pool_parts, sides))
        except CorpusError as error:
            found = []
            own = [f"{task} is not judged. {error}"]
        pairs += found
        notes += own
    return pairs, notes
