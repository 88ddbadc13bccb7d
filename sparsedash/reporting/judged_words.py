"""Models judged together by answers of other programs: their ranking and verdicts in words, as lines
of text and as a document.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsedash.reporting.divergence_words import (
    ModelDivergence,
    cut_sentence,
    divergence_rows,
    divergence_sentence,
    models_rows,
)
from sparsedash.reporting.html import widget_label
from sparsedash.reporting.leaderboard import Leaderboard
from sparsedash.reporting.task_words import judge_document, task_remarks, tasks_sentence
from sparsedash.reporting.verdicts import level_words
from sparsedash.reporting.wording import (
    and_join,
    percent,
    quantity,
    signed_interval,
    signed_points,
)
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.judged_models import RankedModel, Ranking
from sparsedash.stats.task_verdicts import (
    JudgedAnswers,
    TaskVerdict,
    joint_verdict,
    overall_verdict,
)

Part = str | list[list[str]]
"""Of a result: a sentence, or a table whose first row is its head."""
MODELS_FORMAT = "sparsedash.judge-models/1"
_PLOT_LETTERS = 41


def ranking_sentence(ranking: Ranking) -> str:
    """Which models are first, and on what."""
    first = [model.name for model in ranking.models if model.rank == 1]
    about = quantity(ranking.n_questions, "question")
    if len(first) == 1:
        return f"{first[0]} is best on {about} that all answered."
    if len(first) == len(ranking.models):
        return f"No difference is shown between {and_join(first)} on {about} that all answered."
    return f"{and_join(first)} tie for first on {about} that all answered."


def ranking_caption(ranking: Ranking) -> str:
    """Instructions for reading the ranking."""
    score = "Right: share of right answers"
    if len(ranking.tasks) > 1:
        score = f"Right: mean of {len(ranking.tasks)} tasks, each of which counts alike"
    return (
        f"{score}. Change: from {ranking.baseline}, paired, in points; intervals of "
        f"{level_words(ranking.level)}, which hold together at 95 %. Rank: 1 and how many models are "
        "shown to be better, after Holm over all pairs; = marks a tie."
    )


def rank_words(model: RankedModel) -> str:
    """ "2", or "2=" of a tie."""
    return f"{model.rank}=" if model.ties else f"{model.rank}"


def ranking_rows(ranking: Ranking) -> list[list[str]]:
    """The table: its head, then a row a model, the best first."""
    rows = [["model", "rank", "right", "change", "interval"]]
    for model in ranking.models:
        change = ["", ""]
        if model.name != ranking.baseline:
            change = [
                signed_points(model.change),
                signed_interval((model.low, model.high)),
            ]
        rows.append([model.name, rank_words(model), percent(model.score), *change])
    return rows


def interval_lines(ranking: Ranking) -> list[str]:
    """A line a model in the table's order: its change and interval, drawn in letters of one width;
    the bar marks the baseline.
    """
    lowest = min(model.low for model in ranking.models)
    highest = max(model.high for model in ranking.models)
    width = max(highest - lowest, 1e-9)

    def place(value: float) -> int:
        return round((value - lowest) / width * (_PLOT_LETTERS - 1))

    lines = []
    for model in ranking.models:
        letters = [" "] * _PLOT_LETTERS
        for i in range(place(model.low), place(model.high) + 1):
            letters[i] = "─"
        letters[place(0.0)] = "│"
        letters[place(model.change)] = "●"
        lines.append("".join(letters))
    return lines


def models_verdict(judged: Mapping[str, JudgedAnswers]) -> TaskVerdict:
    """Beyond where any model is, within where every one is."""
    return joint_verdict(
        {overall_verdict(answers.results) for answers in judged.values()}
    )


def models_sentence(judged: Mapping[str, JudgedAnswers]) -> str:
    """A sentence a model."""
    return " ".join(
        tasks_sentence(name, answers.results) for name, answers in judged.items()
    )


def models_document(
    judged: Mapping[str, JudgedAnswers], ranking: Ranking | None, tolerance: Tolerance
) -> dict[str, Any]:
    """Everything as plain values for JSON."""
    models = []
    for name, answers in judged.items():
        models.append(
            {"model": name, **judge_document(name, answers.results, tolerance)}
        )
    return {
        "format": MODELS_FORMAT,
        "sentence": models_sentence(judged),
        "verdict": models_verdict(judged),
        "tolerance": tolerance.as_document(),
        "ranking": None if ranking is None else _ranking_document(ranking),
        "models": models,
    }


def _ranking_document(ranking: Ranking) -> dict[str, Any]:
    models = []
    for model in ranking.models:
        models.append(
            {
                "model": model.name,
                "rank": model.rank,
                "ties": list(model.ties),
                "score": model.score,
                "change": model.change,
                "low": model.low,
                "high": model.high,
            }
        )
    return {
        "sentence": ranking_sentence(ranking),
        "tasks": list(ranking.tasks),
        "n_questions": ranking.n_questions,
        "level": ranking.level,
        "models": models,
    }


def models_parts(
    board: Leaderboard,
    judged: Mapping[str, JudgedAnswers],
    ranking: Ranking | None,
    *,
    drawn: bool,
) -> list[Part]:
    """The leaderboard, the ranking and a sentence a model. drawn: with the intervals in letters."""
    table = board.table(board.rows(only_beyond=False, order=""))
    rows = []
    for texts in (table.head, *table.rows):
        rows.append([" ".join(text.split("\n")[:2]) for text in texts])
    parts: list[Part] = [rows]
    if ranking is not None:
        ranked = ranking_rows(ranking)
        if drawn:
            plot = ["", *interval_lines(ranking)]
            ranked = [[*row, line] for row, line in zip(ranked, plot, strict=True)]
        parts += [ranked, ranking_sentence(ranking), ranking_caption(ranking)]
    for name, answers in judged.items():
        parts += [tasks_sentence(name, answers.results), task_remarks(answers.results)]
    return parts


def divergence_parts(
    models: Sequence[ModelDivergence], text: str, tolerance: Tolerance
) -> list[Part]:
    """The table and what it is based on, with the verdicts where the blocks are known. text: which
    the models were compared on, in words.
    """
    figures = models[0].figures
    parts: list[Part] = [divergence_rows(figures)]
    if len(models) > 1:
        parts = [models_rows(models)]
    parts += [divergence_sentence(model, tolerance) for model in models]
    parts += filter(None, map(cut_sentence, models))
    if text:
        parts.append(text)
    if figures.n_tokens is None:
        parts.append(
            "Read from what llama-perplexity printed, whose errors are over tokens."
        )
    else:
        parts.append(
            f"On {figures.n_tokens:,} tokens; ± over {figures.n_blocks:,} blocks of text."
        )
    return parts


def markdown_lines(parts: Sequence[Part]) -> list[str]:
    """Markdown for a pull request or a job summary: the first sentence as its heading, then tables
    and paragraphs. Foreign text is escaped.
    """
    parts = list(filter(None, parts))
    first = next(part for part in parts if isinstance(part, str))
    lines = [f"### {widget_label(first)}", ""]
    for part in parts:
        if part is first:
            continue
        if isinstance(part, str):
            lines += [widget_label(part), ""]
            continue
        head, *rows = [list(map(widget_label, row)) for row in part]
        rule = ["---", *["--:"] * (len(head) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        lines.append("")
    return lines
