"""A run as one file: the self-contained HTML report, and the JSON document that `sparsedash run --json` writes.

The report has no script and makes no request. docs/cli.md describes the fields of the document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import exp, isfinite
from typing import Any

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.html import Html, element, escape, heading, join, paragraph, table
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, KINDS, Kind, Pair, mark_divergence
from sparsedash.reporting.run_answer import answer_figures, answer_sentence, find_document, missing_records, run_ending
from sparsedash.reporting.run_results import RunResults, verdict_of
from sparsedash.reporting.svg_chart import tradeoff_svg
from sparsedash.reporting.verdicts import numbers_table
from sparsedash.reporting.wording import example_words
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.records import LARGEST_LOSS, Passages, Record, Run, Score
from sparsedash.schema.settings import FindResult
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import compare_records, holm
from sparsedash.stats.tolerance import Loss, Tolerance, ToleranceVerdict, judge_all, record_losses
from sparsedash.storage.local_machine import RESULT_FORMAT

MOST_CONTINUATIONS = 100
PROMPT_SHOWN = 600
"""Characters of a prompt's end that stand above what was written after it."""
_FLIPS: tuple[Kind, ...] = ("broke", "mended")
_NOTHING = "(nothing)"


@dataclass(frozen=True, kw_only=True)
class WrittenContinuation:
    """One prompt with the texts that were written after it, by the names of the models, the left one first.

    how: which passage it was, or with what settings it was written.
    """

    prompt: str
    how: str
    texts: dict[str, str]


def stored_continuations(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None
) -> list[WrittenContinuation]:
    """What is stored of both models' writing: prompts first, newest first, then passages that broke or were mended."""
    names = dict(wording.record_names(run))
    found: list[WrittenContinuation] = []
    for how, request in (*_prompt_requests(backend, pair), *_flip_requests(pair, passages)):
        stored = backend.continuation(request.key())
        if stored is not None and len(found) < MOST_CONTINUATIONS:
            others = dict(zip((names.get(key, key[:8]) for key in request.others), stored.others, strict=False))
            stopped = ", stopped before the end" if stored.stopped else ""
            texts = {pair.left_name: stored.left, pair.right_name: stored.right, **others}
            found.append(WrittenContinuation(prompt=request.prompt, how=f"{how}{stopped}", texts=texts))
    return found


def _prompt_requests(backend: Backend, pair: Pair) -> Iterator[tuple[str, ContinuationSettings]]:
    for request in backend.user_data.prompts(pair.left.key, pair.right.key):
        yield f"A visitor's prompt, {sampling_words(request)}", request


def _flip_requests(pair: Pair, passages: Passages | None) -> Iterator[tuple[str, ContinuationSettings]]:
    """Those that the page's button asks to be continued; a context that cannot be is left out."""
    kinds = pair.kinds(range(len(pair.left.outcomes)) if passages else [])
    for kind in _FLIPS:
        for position in kinds[kind]:
            assert passages is not None, "without texts there are no positions"
            try:
                request = ContinuationSettings(
                    left=pair.left.key, right=pair.right.key, prompt=passages.contexts[position]
                )
            except SettingsError:
                continue
            yield f"Passage {pair.left.outcomes[position].index + 1:,}, {kind}", request


def sampling_words(request: ContinuationSettings) -> str:
    """ "first choices, 40 tokens", "temperature 0.7, seed 5, 12 tokens"."""
    if request.temperature_percent == 0:
        return f"first choices, {request.n_tokens} tokens"
    return f"temperature {request.temperature_percent / 100:g}, seed {request.seed}, {request.n_tokens} tokens"


def continuations_section(found: Sequence[WrittenContinuation]) -> list[Html]:
    """The part of the report that shows them, each text with a mark where it parts from the left model's."""
    if not found:
        return []
    heading = element("h2", escape("What the models wrote"))
    first = next(iter(found[0].texts))
    legend = paragraph(f"The mark {DIVERGENCE_SIGN} stands where a text parts from that of {first}.", css="sd-muted")
    return [heading, legend, *(_drawn(each) for each in found)]


def _drawn(each: WrittenContinuation) -> Html:
    prompt = each.prompt if len(each.prompt) <= PROMPT_SHOWN else f"… {each.prompt[-PROMPT_SHOWN:]}"
    (left, first), *rest = ((name, text.strip() or _NOTHING) for name, text in each.texts.items())
    rows = [(left, escape(first)), *((name, mark_divergence(first, text)[1]) for name, text in rest)]
    body = (element("tr", element("th", escape(name), scope="row"), element("td", text)) for name, text in rows)
    table = element("table", element("tbody", *body), css="written")
    return join(paragraph(each.how, css="sd-muted"), paragraph(prompt), table)


POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
FLIPS_SHOWN = 200
CONTEXT_SHOWN = 300
"""Characters of a context's end that stand beside a flip."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 Georgia, serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  --ground: light-dark(#fcfbf8, #17191c);
  color: light-dark(#22262b, #e8e6e1); background: var(--ground); overflow-wrap: anywhere; }
h1, p, svg { max-width: 54rem; }
h1 { font-size: 1.6rem; font-weight: 500; line-height: 1.3; } h2 { font-size: 1.15rem; margin-top: 2rem; }
svg { width: 100%; height: auto; } svg text { font: 13px sans-serif; fill: currentcolor; }
.grid { stroke: light-dark(#e7e4db, #2d3136); } .allowed { fill: light-dark(#3d7a4f, #86c49a); opacity: 0.16; }
.dense { stroke: light-dark(#2f5d9b, #8db4e8); stroke-width: 2; }
.sparse { stroke: light-dark(#c2571a, #f0955a); stroke-width: 2; fill: none; } svg .point { font-size: 16px;
  fill: light-dark(#c2571a, #f0955a); }
.sd-muted { color: light-dark(#5b6068, #a3a8b0); } .sd-scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font: 0.8125rem/1.5 sans-serif;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.7rem 0.25rem 0; font-weight: 400;
  border-bottom: 1px solid light-dark(#d8d4c8, #3a3e44); }
th { overflow-wrap: normal; } .sd-table { overflow-wrap: break-word; } .sd-table th:first-child { position: sticky;
  left: 0; background: var(--ground); }
.sd-table thead th { vertical-align: bottom; }
.sd-table td:first-of-type { min-width: 14rem; } .numbers .sd-table td { min-width: 0; }
.numbers td, .numbers tbody th { white-space: nowrap; }
.numbers th:not(:first-child), .numbers td { text-align: right; padding: 0.25rem 0 0.25rem 0.6rem; }
.written { font: inherit; margin: 0.5rem 0 1.5rem; max-width: 54rem; }
.written th { white-space: nowrap; font-size: 0.875rem; }
.written td { white-space: pre-wrap; } .sd-alike { color: light-dark(#5b6068, #a3a8b0); } .sd-part { font-weight: 700; }
pre { white-space: pre-wrap; font-size: 0.85rem; }
@media print { .numbers table { font-size: 6pt; } .numbers .sd-table * { padding-left: 0.25rem; }
  .sd-scroll { overflow: visible; } }
"""


def html_report(
    found: RunResults,
    pair: Pair,
    passages: Passages | None,
    job: Job | None = None,
    wrote: Sequence[WrittenContinuation] = (),
) -> bytes:
    """The file: verdict, chart and numbers, the answers that broke or were mended, what the models wrote, settings and
    versions; UTF-8.
    """
    judged = compare_records(pair.left, pair.right)
    tradeoff = found.tradeoff()
    title = found.title
    body = [
        heading(answer_sentence(found)),
        *_remark(example_words(found.run)),
        *_remark(run_ending(found.run, job)),
        *_remark(missing_records(found.run, found.missing)),
        *_remark(wording.source_note(found.run.source_type)),
        *(paragraph(said, css="sd-muted") for said in answer_figures(found)),
        paragraph(f"{title} · {wording.stored_run_details(found.run)}", css="sd-muted"),
        tradeoff_svg(tradeoff, "word perplexity"),
        tradeoff_svg(tradeoff, "accuracy"),
        element("div", numbers_table(found).html, css="numbers"),
        element("h2", escape(f"{pair.right_name} against {pair.left_name}")),
        paragraph(verdicts.flip_words(judged)),
        *_judged(found, pair),
        *_flip_tables(pair, passages),
        *continuations_section(wrote),
        *_made(found),
    ]
    policy = element("meta", http_equiv="Content-Security-Policy", content=POLICY)
    head = [
        Html('<meta charset="utf-8">'),
        policy,
        Html('<meta name="viewport" content="width=device-width">'),
        element("title", escape(f"{title} · SparseDash")),
        Html(f"<style>{_STYLE}</style>"),
    ]
    page = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def _judged(found: RunResults, pair: Pair) -> list[Html]:
    """The verdict on the comparison, and what it leaves open, as the compare page says them."""
    verdict = verdict_of(found, pair.left, pair.right)
    judged = verdicts.judgement(pair.right_name, verdict, found.tolerance, pair.left_name)
    return [paragraph(text) for text in (judged, *verdicts.remarks(pair.right_name, verdict, pair.left_name))]


def _remark(text: str) -> list[Html]:
    """What there is to say of how the run ended; nothing where it is whole."""
    return [paragraph(text, css="sd-muted")] if text else []


def _flip_tables(pair: Pair, passages: Passages | None) -> list[Html]:
    kinds = pair.kinds(range(len(pair.left.outcomes)))
    drawn: list[Html] = []
    shown: tuple[Kind, ...] = ("broke", "mended")
    for kind in shown:
        positions = pair.ordered(kinds[kind], kind, "largest change first")
        drawn.append(element("h2", escape(f"{KINDS[kind]}: {len(positions):,}")))
        if not positions:
            continue
        note = "Largest change of the target's log-probability first."
        if len(positions) > FLIPS_SHOWN:
            note += f" The first {FLIPS_SHOWN} of them."
        head = ["Passage", "Its end", "Target", pair.left_name, pair.right_name, "Change"]
        rows = [_flip_row(position, pair, passages) for position in positions[:FLIPS_SHOWN]]
        drawn.append(table(KINDS[kind], note, head, rows).html)
    return drawn


def _flip_row(position: int, pair: Pair, passages: Passages | None) -> list[str]:
    left, right = pair.outcomes(position)
    context = passages.contexts[position] if passages else ""
    end = context if len(context) <= CONTEXT_SHOWN else f"… {context[-CONTEXT_SHOWN:]}"
    answers = [outcome.answer.strip()[:CONTEXT_SHOWN] for outcome in (left, right)]
    change = f"{-pair.fall(position):+.2f}".replace("-", wording.MINUS)
    return [f"{left.index + 1:,}", end, left.target[:CONTEXT_SHOWN], *answers, change]


def _made(found: RunResults) -> list[Html]:
    run = found.run
    identities = {"model": run.model_identity, **run.corpora}
    return [
        element("h2", escape("Settings")),
        element("pre", escape(canonical_json(asdict(run.settings)))),
        element("h2", escape("What was read")),
        _definitions(identities),
        element("h2", escape("Versions")),
        _definitions(run.versions),
        *(paragraph(warning, css="sd-muted") for warning in run.warnings),
    ]


def _definitions(values: dict[str, str]) -> Html:
    rows = [
        element("tr", element("th", escape(name), scope="row"), element("td", escape(value)))
        for name, value in values.items()
    ]
    return element("table", element("tbody", join(*rows)))


def run_document(
    run: Run, dense: Record, sparse: list[Record], tolerance: Tolerance | None = None, result: FindResult | None = None
) -> dict[str, Any]:
    """The run and its records as JSON values. sparse: in the order asked. tolerance: what may be lost; None: usual.

    result: of a search; its sentence is about what it was asked for.
    """
    allowed = tolerance or Tolerance()
    verdicts = judge_all([record_losses(dense, record) for record in sparse], allowed, run.n_compared)
    adjusted = holm([compare_records(dense, record).p_value for record in sparse], run.n_compared)
    by_permille = {record.sparsity_permille: verdict for record, verdict in zip(sparse, verdicts, strict=True)}
    return {
        "format": RESULT_FORMAT,
        "key": run.key,
        "model": {
            "reference": run.settings.model,
            "identity": run.model_identity,
            "dtype": run.settings.dtype,
            "source_type": run.source_type or None,
        },
        "corpora": {
            "calibration": _corpus(run, "calibration", run.settings.calibration.corpus),
            "evaluation": _corpus(run, "evaluation", run.settings.evaluation.corpus),
        },
        "settings": asdict(run.settings),
        "finished": run.finished,
        "ended": run_ending(run, None) or None,
        "seed": run.settings.calibration.seed,
        "find": result and find_document(result, run.settings.methods[0], by_permille),
        "dense": _answers(dense),
        "sparse": [
            _sparse(dense, record, p) | {"verdict": _verdict(verdict, allowed)}
            for record, p, verdict in zip(sparse, adjusted, verdicts, strict=True)
        ],
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "disk_bytes": run.disk_bytes,
        "cached": list(run.cached),
        "warnings": list(run.warnings),
        "versions": run.versions,
        "example": example_words(run) or None,
    }


def _corpus(run: Run, use: str, reference: str) -> dict[str, str]:
    return {"reference": reference, "identity": run.corpora[use]}


def _answers(record: Record) -> dict[str, Any]:
    return {
        "last_word": _score(record.last_word),
        "last_token": _score(record.last_token),
        "word_perplexity": record.word_perplexity if isfinite(record.word_perplexity) else None,
        "passages": [
            {
                "index": outcome.index,
                "target": outcome.target,
                "last_word_right": outcome.last_word_right,
                "last_token_right": outcome.last_token_right,
                "log_likelihood": outcome.log_likelihood,
                "answer": outcome.answer,
            }
            for outcome in record.outcomes
        ],
    }


def _sparse(dense: Record, record: Record, p_adjusted: float) -> dict[str, Any]:
    assert record.pruned is not None
    pairs = compare_records(dense, record)
    return {
        "method": asdict(record.pruned.method),
        "sparsity_percent": record.pruned.sparsity_permille / 10,
        "mlp_sparsity": record.pruned.mlp_sparsity,
        "matmul_ratio": record.pruned.matmul_ratio,
        "widths": list(record.pruned.widths),
        "layer_errors": list(record.pruned.layer_errors),
        "held_out_errors": list(record.pruned.held_out_errors),
        "uncompensated_errors": list(record.pruned.uncompensated_errors),
        "passage_errors": list(record.pruned.passage_errors),
        "sensitivities": list(record.pruned.sensitivities),
        "paired": {
            "broke": pairs.broke,
            "mended": pairs.mended,
            "p_value": pairs.p_value,
            "p_adjusted": p_adjusted,
            "difference": pairs.difference,
            "interval": list(pairs.interval),
        },
        "stopping": record.stopping and asdict(record.stopping),
        **_answers(record),
    }


def _score(score: Score) -> dict[str, int]:
    return {"right": score.right, "total": score.total}


def _verdict(found: ToleranceVerdict, tolerance: Tolerance) -> dict[str, Any]:
    """Both losses as they are spoken of: the perplexity as a multiple of dense's, the accuracy in points gained."""
    one, two = found.perplexity, found.accuracy
    return {
        "verdict": found.verdict,
        "tolerance": {"ratio": tolerance.ratio, "points": tolerance.points},
        "decided_by": list(found.decided_by),
        "ratio": _loss_values(one, _factor(one.value), _factor(one.low), _factor(one.high)),
        "points": two and _loss_values(two, *(0.0 - 100 * lost for lost in (two.value, two.high, two.low))),
        "passages_needed": found.passages_needed,
    }


def _loss_values(loss: Loss, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": loss.level, "verdict": loss.verdict}


def _factor(nats: float) -> float | None:
    """e to this power; None where that is no number of JSON: one passage has no interval."""
    return exp(nats) if -LARGEST_LOSS < nats < LARGEST_LOSS else None
