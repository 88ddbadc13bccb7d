"""Two models' answers to the same questions: which were asked alike, and why others cannot be compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import AnsweredQuestion, QuestionSet, pool_parts


@dataclass(frozen=True, kw_only=True)
class TaskPair:
    """Two models' answers to one task. questions: those that both answered, the dense model's first."""

    dense: QuestionSet
    other: QuestionSet
    questions: tuple[tuple[AnsweredQuestion, AnsweredQuestion], ...]


def pair_answers(dense: QuestionSet, other: QuestionSet) -> TaskPair:
    """The questions that both answered. Raises CorpusError where the two were asked or judged differently."""
    task = dense.task
    for what, left, right in (
        ("versions", dense.version, other.version),
        ("measures", dense.measure, other.measure),
        ("filters", dense.filter, other.filter),
    ):
        if left and right and left != right:
            raise CorpusError(f"{task} was judged by different {what}: {left} and {right}.")
    # A file may have any name, so that of its only part says nothing.
    in_parts = any(len({question.part for question in each.questions}) > 1 for each in (dense, other))
    asked, known = (_by_document(each, in_parts) for each in (dense, other))
    pairs = [(one, known[key]) for key, one in asked.items() if key in known]
    if not pairs:
        raise CorpusError(f"The two have no question of {task} in common.")
    for unequal, of in (
        ("were asked differently: another prompt", attrgetter("prompt_hash")),
        ("expect different answers", attrgetter("target_hash")),
        ("were answered in different ways", attrgetter("kind", "n_bytes", "n_words")),
        ("were asked differently: other choices", lambda question: [each.text for each in question.choices]),
    ):
        if n := sum(of(one) != of(two) for one, two in pairs):
            raise CorpusError(
                f"{n:,} of {len(pairs):,} questions of {task} {unequal}.",
                "Ask both models with the same program, examples and template.",
            )
    return TaskPair(dense=dense, other=other, questions=tuple(pairs))


def _by_document(answers: QuestionSet, in_parts: bool) -> dict[tuple[str, str, int], AnsweredQuestion]:
    """Questions by part, hash of the document, and how many with these came before."""
    seen, found = Counter[tuple[str, str]](), {}
    for question in answers.questions:
        name = (question.part if in_parts else "", question.doc_hash)
        found[*name, seen[name]] = question
        seen[name] += 1
    return found


def pair_tasks(dense: Sequence[QuestionSet], other: Sequence[QuestionSet]) -> tuple[list[TaskPair], list[str]]:
    """The tasks that both answered, and sentences on what only one did. Raises CorpusError where there are none.

    Two files of one task each are that task, whatever their names.
    """
    if len(dense) == len(other) == 1:
        pairs = [pair_answers(dense[0], other[0])]
    else:
        known = {each.task: each for each in other}
        pairs = [pair_answers(each, known[each.task]) for each in dense if each.task in known]
    judged = {id(each) for pair in pairs for each in (pair.dense, pair.other)}
    alone = [f"Only one model answered {each.task}." for each in (*dense, *other) if id(each) not in judged]
    if not pairs:
        raise CorpusError("The two have no task in common.", " ".join(alone))
    for pair in pairs:
        n, most = len(pair.questions), max(len(each.questions) for each in (pair.dense, pair.other))
        if n < most:
            alone.append(f"{n:,} of {most:,} questions of {pair.dense.task} were answered by both; they are judged.")
    return pairs, alone


def pairs_of(dense: Sequence[QuestionSet], other: Sequence[QuestionSet]) -> tuple[list[TaskPair], list[str]]:
    """The tasks that can be judged, and sentences on the others."""
    pairs, notes = list[TaskPair](), list[str]()
    for task in dict.fromkeys(each.task for each in (*dense, *other)):
        sides = [[each for each in side if each.task == task] for side in (dense, other)]
        if not all(sides):
            notes.append(f"{task} is not judged: only one model answered it.")
            continue
        try:
            found, own = pair_tasks(*map(pool_parts, sides))
        except CorpusError as error:
            found, own = [], [f"{task} is not judged. {error}"]
        pairs += found
        notes += own
    return pairs, notes
