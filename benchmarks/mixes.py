"""What a calibration text keeps: losses on passages, KL and every built-in task, by the mix that
calibration reads.

    python -m benchmarks.mixes --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl[2000:2150] \\
        --mixes none,stories,default --sparsity 10,20 --divergence file:wikitext.txt --keep FOLDER

Every mix on equal tokens. none: the named text alone. stories, default and the others: half of the
tokens are of these sources (of `builtin:mixed` all are). `--mixes` also takes shares, such as
stories=0.5+sums=0.25+code=0.25. Prints the nats lost a word and the KL from dense with paired 95 %
intervals, and the points lost in each task: of all its questions, and of two halves of them, so
that one chooses and the other is reported. `--tasks` asks more tasks, such as a .yaml file of the
harness.
"""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.arguments import run_settings, texts_parser
from benchmarks.protocol import ALPHA, mean_words, nats_lost, next_token_divergences
from sparsedash.catalog import mixed_text
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record
from sparsedash.schema.settings import SELF
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.storage.store import Store

DEFAULT = "default"
NONE = "none"
_N_IN_A_ROW = 8
"""Tokens that no built-in task shares with the mix, which a test holds."""


def main():
    arguments = _arguments()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Store(Path(arguments.keep or folder))
        for text in arguments.calibration or [SELF]:
            for name in arguments.mixes.split(","):
                with _mixed_sources(_sources(name)):
                    dense_answers = _print_losses(arguments, store, text, name)
        if arguments.tasks:
            settings = run_settings(
                arguments, [method_named(arguments.method)], calibration=SELF
            )
            loaded = RunContext(settings, store, ignore_steps, ModelCache()).loaded
            _print_overlaps(loaded, dense_answers)
        store.close()


@contextmanager
def _mixed_sources(sources):
    """Inside, a mix is of these sources."""
    before = mixed_text.SOURCES
    mixed_text.SOURCES = sources
    mixed_text.mixed_identity.cache_clear()
    try:
        yield
    finally:
        mixed_text.SOURCES = before
        mixed_text.mixed_identity.cache_clear()


def _sources(name):
    """The sources of the mix with this name or these shares."""
    sources = {source.name: source for source in mixed_text.SOURCES}
    if name in (DEFAULT, NONE):
        return tuple(sources.values())
    words = name if "=" in name else f"{name}=1"
    shares = dict(word.split("=") for word in words.split("+"))
    unknown = shares.keys() - sources.keys()
    if unknown:
        raise SystemExit(
            f"There is no source {', '.join(unknown)}. There are {', '.join(sources)}."
        )
    return tuple(
        replace(source, share=float(shares[name]))
        for name, source in sources.items()
        if name in shares
    )


def _print_losses(arguments, store, text, name):
    """Print what the mix costs. Returns by task what the dense model answered."""
    method = replace(
        method_named(arguments.method), mix=0.0 if name == NONE else arguments.share
    )
    settings = run_settings(arguments, [method], calibration=text)
    tasks = (*BUILTIN_TASKS, *arguments.tasks)
    evaluation = replace(
        settings.evaluation, tasks=tasks, task_limit=arguments.task_limit
    )
    settings = replace(settings, evaluation=evaluation)
    # Before the run, which deletes the blocks that were made for it.
    divergences = next_token_divergences(settings, store, arguments)
    run = pipeline.run(settings, store, ignore_steps)
    dense = store.get(Record, run.dense)
    dense_answers = _answers(store, run, run.dense)
    for spec, key in zip(settings.points, run.sparse, strict=True):
        print(
            f"\n{Path(arguments.model).name}, {Path(text).name}, mix {name}, {spec.permille / 10:g} %"
        )
        _print_mean("nats a word", nats_lost(dense, store.get(Record, key)))
        for reference in arguments.divergence:
            (nats,) = divergences[reference, spec.permille].values()
            _print_mean(f"KL on {Path(reference).name}", nats)
        for task, questions in _answers(store, run, key).items():
            _print_points(task, dense_answers[task], questions)
    return dense_answers


def _answers(store, run, key):
    """By task, the questions that the model with this record answered."""
    sets = [store.get(QuestionSet, answers) for answers in run.answers.get(key, ())]
    return {answered.task: answered.questions for answered in sets}


def _print_overlaps(loaded, questions_by_task):
    """Of every task, how many questions share tokens in a row with the sources of the mix."""
    print(f"\nquestions that share {_N_IN_A_ROW} tokens in a row with the mix")
    in_mix = set()
    for document in mixed_text.mixed_documents():
        in_mix |= _tokens_in_a_row(loaded, document)
    for task, questions in questions_by_task.items():
        n_shared = 0
        for question in questions:
            choices = [choice.text for choice in question.choices]
            texts = [
                question.context + choice for choice in choices or [question.target]
            ]
            n_shared += any(_tokens_in_a_row(loaded, text) & in_mix for text in texts)
        print(f"  {task:28}   {n_shared:,} of {len(questions):,}")


def _tokens_in_a_row(loaded, text):
    """All _N_IN_A_ROW tokens in a row of a text."""
    ids = loaded.tokens(text)
    n_rows = len(ids) - _N_IN_A_ROW + 1
    return {tuple(ids[start : start + _N_IN_A_ROW]) for start in range(n_rows)}


def _print_mean(title, values):
    print(f"  {title:28}   {mean_words(values)}", flush=True)


def _print_points(task, dense, sparse):
    lost = [
        100 * (before.right - after.right)
        for before, after in zip(dense, sparse, strict=True)
    ]
    low, high = mean_interval(moments(lost), ALPHA)
    halves = defaultdict(list)
    parts = defaultdict(list)
    for number, (question, points) in enumerate(zip(dense, lost, strict=True)):
        # In turns of four, since a task asks two or four parts in turn.
        halves[number // 4 % 2].append(points)
        parts[question.fields.get("part", "")].append(points)
    known = 100 * fmean(question.right for question in dense)
    words = f"{fmean(lost):.1f} ({low:.1f} to {high:.1f}) of {known:.0f} %"
    words += "; halves " + " and ".join(
        f"{fmean(half):.1f}" for half in halves.values()
    )
    if len(parts) > 1:
        words += "; " + ", ".join(
            f"{part} {fmean(points):.1f}" for part, points in parts.items()
        )
    print(f"  {task:28}   {words}")


def _arguments():
    parser = texts_parser(
        __doc__,
        method="best",
        mixes=f"{NONE},stories,{DEFAULT}",
        share=(0.5, "of the calibration tokens that are the mix"),
        task_limit=int,
        sparsity="10,20",
    )
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        help="beside the built-in ones, may be repeated",
    )
    parser.set_defaults(dtype="bfloat16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
