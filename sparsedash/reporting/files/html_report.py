"""A run and one of its comparisons as a single HTML file: no script and no request, so it opens from disk anywhere."""

from collections.abc import Sequence
from dataclasses import asdict

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.files.svg_chart import drawing
from sparsedash.reporting.files.written import Written, section
from sparsedash.reporting.html import Html, element, escape, heading, join, paragraph, table
from sparsedash.reporting.record_pair import KINDS, Kind, Pair
from sparsedash.reporting.results_table import numbers_table
from sparsedash.reporting.run_answer import answer, figures
from sparsedash.reporting.run_ending import missing_records, run_ending
from sparsedash.reporting.run_results import RunResults, verdict_of
from sparsedash.reporting.wording import example_words
from sparsedash.schema.hashing import canonical_json
from sparsedash.schema.records import Passages
from sparsedash.stats.significance import compare

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


def report(
    found: RunResults, pair: Pair, passages: Passages | None, job: Job | None = None, wrote: Sequence[Written] = ()
) -> bytes:
    """The file: verdict, chart and numbers, the answers that broke or were mended, what the models wrote, settings and
    versions; UTF-8.
    """
    judged = compare(pair.left, pair.right)
    tradeoff = found.tradeoff()
    title = found.title
    body = [
        heading(answer(found)),
        *_remark(example_words(found.run)),
        *_remark(run_ending(found.run, job)),
        *_remark(missing_records(found.run, found.missing)),
        *_remark(wording.source_note(found.run.source_type)),
        *(paragraph(said, css="sd-muted") for said in figures(found)),
        paragraph(f"{title} · {wording.details_of(found.run)}", css="sd-muted"),
        drawing(tradeoff, "word perplexity"),
        drawing(tradeoff, "accuracy"),
        element("div", numbers_table(found).html, css="numbers"),
        element("h2", escape(f"{pair.right_name} against {pair.left_name}")),
        paragraph(verdicts.flips(judged)),
        *_judged(found, pair),
        *_flips(pair, passages),
        *section(wrote),
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


def _flips(pair: Pair, passages: Passages | None) -> list[Html]:
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
        rows = [_flip(position, pair, passages) for position in positions[:FLIPS_SHOWN]]
        drawn.append(table(KINDS[kind], note, head, rows).html)
    return drawn


def _flip(position: int, pair: Pair, passages: Passages | None) -> list[str]:
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
