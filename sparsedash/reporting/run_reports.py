"""A run as one file: the self-contained HTML report, and the JSON document that `sparsedash run
--json` writes.

The report has no script and makes no request: its charts are the page's own figures as inline SVG.
docs/cli.md describes the fields of the document.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.charts.chart_style import COLOUR_PAIRS
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.divergence_words import divergence_table, figures_document
from sparsedash.reporting.figure_svg import figure_svg
from sparsedash.reporting.findings import estimate_limit
from sparsedash.reporting.html import (
    Html,
    Table,
    element,
    escape,
    heading,
    paragraph,
    readable,
)
from sparsedash.reporting.kind_words import (
    forgotten_sentence,
    kinds_document,
    kinds_table,
)
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.next_step import NextStep
from sparsedash.reporting.record_pair import (
    DIVERGENCE_SIGN,
    KINDS,
    Kind,
    Pair,
    end_of,
    mark_divergence,
)
from sparsedash.reporting.ruler import rulers_html, run_rulers
from sparsedash.reporting.run_answer import (
    answer_figures,
    answer_sentence,
    estimate_words,
    find_document,
    missing_records,
    run_ending,
)
from sparsedash.reporting.run_headline import basis_words, headline
from sparsedash.reporting.run_pictures import PICTURES, chips, layer_strip, strip_words
from sparsedash.reporting.run_results import RunResults, difference_of, verdict_of
from sparsedash.reporting.task_words import judge_document
from sparsedash.reporting.tradeoff_points import run_tradeoff
from sparsedash.reporting.verdicts import numbers_table
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.backend import Backend
from sparsedash.stats.kind_estimates import kind_estimates
from sparsedash.stats.races import LikelihoodDifference
from sparsedash.stats.significance import compare_records
from sparsedash.stats.tolerance import Loss, ToleranceVerdict
from sparsedash.storage.local_machine import RESULT_FORMAT

MAX_CONTINUATIONS = 100
PROMPT_SHOWN = 600
"""Characters of a prompt's end that stand above what was written after it."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
FLIPS_SHOWN = 200
CONTEXT_SHOWN = 300
"""Characters of a context's end that stand beside a flip."""
_FLIPS: tuple[Kind, ...] = ("broke", "fixed")
_CHARTS: tuple[Measure, ...] = ("word perplexity", "accuracy")
_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
_PICTURES = PICTURES.read_text(encoding="utf-8")


def html_report(
    results: RunResults,
    pair: Pair,
    passages: Passages | None,
    job: Job | None = None,
    wrote: Sequence[Html] = (),
    step: NextStep | None = None,
    drawn_chips: Sequence[Html] = (),
) -> bytes:
    """The report in UTF-8: verdict, charts, numbers, broken and fixed answers, continuations,
    settings, versions.

    wrote: sections before the settings. step: the next one, as the page says it. drawn_chips: of
    the models that the headline names.
    """
    # Not above: the shell, which draws nothing, is installed without plotly.
    from sparsedash.reporting.charts.tradeoff_chart import (
        tradeoff_chart,
        tradeoff_words,
    )

    run = results.run
    tradeoff = run_tradeoff(results)
    ending = run_ending(results.run, job)
    ended = bool(ending)
    notes = [
        answer_sentence(results, ended=ended),
        wording.example_words(run),
        ending,
        missing_records(run, results.missing),
        wording.source_note(run.source_type),
        estimate_words(results),
        *answer_figures(results),
        step.sentence if step else "",
    ]
    basis = [
        results.title,
        wording.tolerance_words(results.tolerance),
        basis_words(results),
    ]
    body = [
        heading(headline(results, ended)),
        paragraph(" · ".join(basis), css="sd-muted"),
        rulers_html(run_rulers(results, ended)),
        chips(drawn_chips),
    ]
    model = results.headline_model
    if model is not None:
        name = results.names[model.record.key]
        body += [
            element("h2", escape(f"Where it was cut: {name}")),
            layer_strip(model.pruned),
            paragraph(strip_words(model.pruned), css="sd-muted"),
        ]
    body += [paragraph(text, css="sd-muted") for text in notes if text]
    for measure in _CHARTS:
        chart = tradeoff_chart(tradeoff, measure)
        body.append(figure_svg(chart, tradeoff_words(tradeoff, measure)))
    body += [
        element("div", numbers_table(results).html, css="numbers"),
        element("h2", escape(f"{pair.right_name} against {pair.left_name}")),
    ]
    body += [paragraph(text) for text in comparison_words(results, pair) if text]
    inputs = {"model": run.model_identity, **run.corpora}
    body += [
        *_flip_tables(pair, passages),
        *_kinds_section(pair.right),
        *wrote,
        element("h2", escape("Settings")),
        _settings_list(run),
        element("h2", escape("Inputs")),
        _rows({name: escape(identity) for name, identity in inputs.items()}),
        element("h2", escape("Versions")),
        _rows({name: escape(version) for name, version in run.versions.items()}),
    ]
    body += [paragraph(warning, css="sd-muted") for warning in run.warnings]
    return html_page(results.title, body)


def _settings_list(run: Run) -> Html:
    """Settings of the run, and the key under which they are stored."""
    parts = [*wording.stored_run_details(run).split(" · "), f"run {run.key}"]
    return element("ul", *(element("li", escape(part)) for part in parts))


def html_page(title: str, body: Sequence[Html]) -> bytes:
    """A page of its own in UTF-8 that needs nothing else: no script, no request."""
    # A chart is drawn in the colours of the light theme; a dark one repaints it.
    repaint = ""
    for light, dark in COLOUR_PAIRS:
        for what in ("fill", "stroke"):
            repaint += (
                f'[{what}="{light}"] {{ {what}: light-dark({light}, {dark}); }}\n'
            )
    head = element(
        "head",
        Html('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        Html('<meta name="viewport" content="width=device-width">'),
        element("title", escape(f"{title} · SparseDash")),
        Html(f"<style>{_PICTURES}{_STYLE}{repaint}</style>"),
    )
    page = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def comparison_words(results: RunResults, pair: Pair) -> tuple[str, str, str]:
    """The verdict on the right model, what it lost, and what both rest on.

    Beside dense it is judged by the limits; beside a sparse model the two are compared, and no
    limit applies.
    """
    left_name = pair.left_name
    right_name = pair.right_name
    compared = compare_records(pair.left, pair.right)
    basis = [
        verdicts.flip_words(compared),
        verdicts.early_stopping_words({left_name: pair.left, right_name: pair.right}),
    ]
    if pair.left.key == pair.right.key:
        sentence = f"{right_name} is compared with itself: nothing changes."
        lost = ""
    elif pair.left.pruned is None:
        sentence, lost, limits = verdicts.model_verdict(
            right_name,
            verdict_of(results, pair.left, pair.right),
            results.tolerance,
        )
        basis.insert(1, limits)
    else:
        difference = difference_of(results, pair.left, pair.right)
        sentence = verdicts.difference_sentence(left_name, right_name, difference)
        words = verdicts.difference_words(difference, left_name)
        points = wording.signed_points(compared.difference)
        interval = (
            f"{wording.LEVEL} interval {wording.signed_interval(compared.interval)}"
        )
        lost = f"{right_name}: {words}. Accuracy {points} points ({interval}, {wording.p_value(compared.p_value)})."
    return sentence, lost, " ".join(filter(None, basis))


def _flip_tables(pair: Pair, passages: Passages | None) -> list[Html]:
    kinds = pair.kinds(range(len(pair.left.outcomes)))
    head = [
        "Passage",
        "Context (end)",
        "Target",
        pair.left_name,
        pair.right_name,
        "Change",
    ]
    drawn = []
    for kind in _FLIPS:
        positions = pair.ordered(kinds[kind], kind, "largest change first")
        drawn.append(element("h2", escape(f"{KINDS[kind]}: {len(positions):,}")))
        if not positions:
            continue
        note = "Largest change of the target's log-probability first."
        if len(positions) > FLIPS_SHOWN:
            note += f" The first {FLIPS_SHOWN} of them."
        rows = []
        for position in positions[:FLIPS_SHOWN]:
            first, second = pair.outcomes(position)
            context = passages.contexts[position] if passages else ""
            row = [f"{first.index + 1:,}", end_of(context, CONTEXT_SHOWN)]
            for text in (first.target, first.answer, second.answer):
                row.append(readable(text)[:CONTEXT_SHOWN])
            rows.append([*row, wording.signed_nats(-pair.fall(position))])
        drawn.append(Table(KINDS[kind], note, head, rows).html)
    return drawn


def _kinds_section(sparse: Record) -> list[Html]:
    """Losses of the right model by kind of text; empty if not measured."""
    if not kind_estimates(sparse.by_kind):
        return []
    sentence = forgotten_sentence(sparse)
    drawn = [kinds_table(sparse).html]
    if sparse.divergence is not None:
        drawn.append(divergence_table(sparse.divergence).html)
    return [paragraph(sentence), *drawn] if sentence else drawn


def _rows(values: Mapping[str, Html], css: str = "") -> Html:
    rows = []
    for name, value in values.items():
        rows.append(
            element(
                "tr", element("th", escape(name), scope="row"), element("td", value)
            )
        )
    return element("table", element("tbody", *rows), css=css)


def continuations_section(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None
) -> list[Html]:
    """Both models' stored continuations: of prompts, newest first, then of passages that broke or
    were fixed.

    Each text has a mark where it parts from the left model's. Empty where nothing was written.
    """
    names = wording.record_names(run)
    drawn: list[Html] = []
    n_shown = 0
    for origin, request in _requests(backend, run, pair, passages):
        if n_shown == MAX_CONTINUATIONS:
            break
        stored = backend.continuation(request)
        if stored is None:
            continue
        n_shown += 1
        first, *others = map(readable, (stored.left, stored.right, *stored.others))
        writers = [pair.left_name, pair.right_name]
        writers += [names.get(key, key[:8]) for key in request.others]
        texts = [escape(first), *(mark_divergence(first, text)[1] for text in others)]
        stopped = ", stopped early" if stored.stopped else ""
        drawn += [
            paragraph(f"{origin}{stopped}", css="sd-muted"),
            paragraph(end_of(request.prompt, PROMPT_SHOWN)),
            _rows(dict(zip(writers, texts, strict=False)), css="written"),
        ]
    if not drawn:
        return []
    legend = (
        f"{DIVERGENCE_SIGN} marks where a text diverges from that of {pair.left_name}."
    )
    heading = element("h2", escape("What the models wrote"))
    return [heading, paragraph(legend, css="sd-muted"), *drawn]


def _requests(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None
) -> list[tuple[str, ContinuationSettings]]:
    """What both models may have continued, with its origin in words: the run's prompts, those that
    users tried, and the passages that the page's button continues.
    """
    left_key = pair.left.key
    right_key = pair.right.key
    requests = []
    written = set()
    for prompt in run.settings.prompts:
        request = ContinuationSettings(left=left_key, right=right_key, prompt=prompt)
        if backend.continuation(request) is not None:
            written.add(request.key())
            requests.append(
                (f"A prompt of the run, {sampling_words(request)}", request)
            )
    for request in backend.user_data.prompts(left_key, right_key):
        if replace(request, others=()).key() not in written:
            requests.append((f"A prompt of a user, {sampling_words(request)}", request))
    contexts = passages.contexts if passages else ()
    kinds = pair.kinds(range(len(contexts)))
    for kind in _FLIPS:
        for position in kinds[kind]:
            number = f"Passage {pair.left.outcomes[position].index + 1:,}"
            with suppress(SettingsError):
                request = ContinuationSettings(
                    left=left_key, right=right_key, prompt=contexts[position]
                )
                requests.append((f"{number}, {KINDS[kind].lower()}", request))
    return requests


def sampling_words(request: ContinuationSettings) -> str:
    """ "greedy, 24 tokens", "temperature 0.7, seed 5, 12 tokens"."""
    length = wording.quantity(request.n_tokens, "token")
    if request.temperature_percent == 0:
        return f"greedy, {length}"
    return f"temperature {request.temperature_percent / 100:g}, seed {request.seed}, {length}"


def run_document(
    results: RunResults,
    dense: Record,
    sparse: Sequence[Record],
    step: NextStep | None = None,
) -> dict[str, Any]:
    """The run and its records as JSON values. dense, sparse: the whole records of `found`, in its
    order.
    """
    run = results.run
    search = results.search
    run_settings = run.settings
    estimate = estimate_limit(results)
    return {
        "format": RESULT_FORMAT,
        "key": run.key,
        "model": {
            "reference": run_settings.model,
            "identity": run.model_identity,
            "dtype": run_settings.dtype,
            "source_type": run.source_type or None,
        },
        "revisions": dict(run_settings.revisions),
        "corpora": {
            "calibration": {
                "reference": run_settings.calibration.corpus,
                "identity": run.corpora["calibration"],
            },
            "evaluation": {
                "reference": run_settings.evaluation.corpus,
                "identity": run.corpora["evaluation"],
            },
        },
        "settings": asdict(run_settings),
        "finished": run.finished,
        "ended": run_ending(run, None) or None,
        "seed": run_settings.calibration.seed,
        "headline": headline(results, ended=not run.finished).replace(
            wording.NBSP, " "
        ),
        "sentence": answer_sentence(results, ended=not run.finished).replace(
            wording.NBSP,
            " ",
        ),
        "estimate": estimate and estimate._asdict(),
        "next": step and step.sentence.replace(wording.NBSP, " "),
        "find": search and find_document(search, results.best),
        "race": [_rival(*rival) for rival in results.race],
        "dense": _answers(dense),
        "sparse": [
            _sparse(results, model, record)
            for model, record in zip(results.sparse_models, sparse, strict=True)
        ],
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "disk_bytes": run.disk_bytes,
        "versions": run.versions,
        "cached": list(run.cached),
        "warnings": list(run.warnings),
        "example": wording.example_words(run) or None,
    }


def _answers(record: Record) -> dict[str, Any]:
    fields = (
        "index",
        "target",
        "last_word_right",
        "last_token_right",
        "log_likelihood",
        "answer",
    )
    passages = []
    for outcome in record.outcomes:
        passages.append({name: getattr(outcome, name) for name in fields})
    return {
        "last_word": asdict(record.last_word),
        "last_token": asdict(record.last_token),
        "word_perplexity": record.word_perplexity
        if isfinite(record.word_perplexity)
        else None,
        "passages": passages,
    }


def _rival(judged: ModelResult, difference: LikelihoodDifference) -> dict[str, Any]:
    """One method beside the winning one: word perplexities as a ratio."""
    return {
        "method": judged.spec.method_document(),
        "sparsity_percent": judged.permille / 10,
        "ratio": verdicts.finite_ratio(difference.value),
        "low": verdicts.finite_ratio(difference.low),
        "high": verdicts.finite_ratio(difference.high),
        "p_adjusted": difference.p_value,
        "level": difference.level,
        "is_shown": difference.is_shown,
        "n_passages": difference.n_passages,
    }


def _sparse(results: RunResults, judged: ModelResult, record: Record) -> dict[str, Any]:
    pairs = judged.comparison
    pruned = record.pruned
    assert pruned is not None, "a sparse record says how it was pruned"
    errors = (
        "layer_errors",
        "held_out_errors",
        "uncompensated_errors",
        "passage_errors",
    )
    per_layer = ("widths", *errors, "alone")
    tasks = None
    if answers := results.tasks.get(record.key):
        name = results.names[record.key]
        tasks = judge_document(name, answers.results, results.tolerance)
    paired = {
        name: getattr(pairs, name)
        for name in ("broke", "fixed", "p_value", "difference")
    }
    return {
        "method": pruned.spec.method_document(),
        "sparsity_percent": pruned.sparsity_permille / 10,
        **verdicts.reached_percents(results, judged),
        "healed": pruned.healed and asdict(pruned.healed),
        "quantised": pruned.quantised and asdict(pruned.quantised),
        **{name: list(getattr(pruned, name)) for name in per_layer},
        "paired": {
            **paired,
            "p_adjusted": judged.p_value,
            "interval": list(pairs.interval),
        },
        "stopping": record.stopping and asdict(record.stopping),
        "by_kind": kinds_document(record),
        "divergence": record.divergence and figures_document(record.divergence),
        **_answers(record),
        "verdict": _verdict(judged.verdict, results.tolerance),
        "tasks": tasks,
    }


def _verdict(verdict: ToleranceVerdict, tolerance: Tolerance) -> dict[str, Any]:
    """Both losses: the perplexity as a multiple of dense's, the accuracy in points gained."""
    return {
        "verdict": verdict.verdict,
        "tolerance": tolerance.as_document(),
        "decided_by": [loss.name for loss in verdict.deciding],
        "ratio": _loss(verdict.perplexity),
        "points": _loss(verdict.accuracy) if verdict.accuracy else None,
        "passages_needed": verdict.passages_needed,
    }


def _loss(loss: Loss) -> dict[str, Any]:
    value, low, high = verdicts.loss_values(loss)
    return {
        "value": value,
        "low": low,
        "high": high,
        "level": loss.level,
        "verdict": loss.verdict,
    }
