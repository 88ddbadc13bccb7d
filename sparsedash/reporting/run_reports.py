"""A run as one file: the self-contained HTML report, and the JSON document that `sparsedash run --json` writes.

The report has no script and makes no request: its charts are the page's own figures as inline SVG. docs/cli.md
describes the fields of the document.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import count, islice
from math import exp, isfinite
from pathlib import Path
from typing import Any

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.charts.chart_style import COLOUR_PAIRS
from sparsedash.reporting.charts.tradeoff_chart import SYMBOLS, tradeoff_chart, tradeoff_words
from sparsedash.reporting.charts.tradeoff_data import Measure, round_ticks
from sparsedash.reporting.html import Html, element, escape, heading, paragraph, table
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, KINDS, Kind, Pair, end_of, mark_divergence
from sparsedash.reporting.run_answer import answer_figures, answer_sentence, find_document, missing_records, run_ending
from sparsedash.reporting.run_results import Judged, RunResults, judge, measure, verdict_of
from sparsedash.reporting.verdicts import numbers_table
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.records import LARGEST_LOSS, Passages, Record, Run
from sparsedash.schema.settings import FindResult
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import compare_records
from sparsedash.stats.tolerance import Tolerance, ToleranceVerdict
from sparsedash.storage.local_machine import RESULT_FORMAT

MOST_CONTINUATIONS = 100
PROMPT_SHOWN = 600
"""Characters of a prompt's end that stand above what was written after it."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
FLIPS_SHOWN = 200
CONTEXT_SHOWN = 300
"""Characters of a context's end that stand beside a flip."""
_FLIPS: tuple[Kind, ...] = ("broke", "mended")
_CHARTS: tuple[Measure, ...] = ("word perplexity", "accuracy")
_SVG_WIDTH = 720
_DASHES = {"dash": "7 4", "dot": "2 4", "dashdot": "7 3 2 3", "longdash": "10 4", "longdashdot": "10 3 2 3"}
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}
_SVG_SIGNS = SYMBOLS | {f"{name}-open": sign for name, sign in zip(SYMBOLS, "○□◇△▽☆⬡⋈", strict=True)}
_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")


def html_report(
    found: RunResults, pair: Pair, passages: Passages | None, job: Job | None = None, wrote: Sequence[Html] = ()
) -> bytes:
    """The report in UTF-8: verdict, charts, numbers, broken and fixed answers, continuations, settings, versions."""
    run, tradeoff = found.run, found.tradeoff()
    notes = [wording.example_words(run), run_ending(run, job), missing_records(run, found.missing)]
    notes += [wording.source_note(run.source_type), *answer_figures(found)]
    notes.append(f"{found.title} · {wording.stored_run_details(run)}")
    body = [
        heading(answer_sentence(found)),
        *(paragraph(said, css="sd-muted") for said in notes if said),
        *(figure_svg(tradeoff_chart(tradeoff, each), tradeoff_words(tradeoff, each)) for each in _CHARTS),
        element("div", numbers_table(found).html, css="numbers"),
        element("h2", escape(f"{pair.right_name} against {pair.left_name}")),
        *(paragraph(said) for said in comparison_words(found, pair) if said),
        *_flip_tables(pair, passages),
        *wrote,
        element("h2", escape("Settings")),
        element("pre", escape(canonical_json(asdict(run.settings)))),
        element("h2", escape("What was read")),
        _rows((name, escape(value)) for name, value in {"model": run.model_identity, **run.corpora}.items()),
        element("h2", escape("Versions")),
        _rows((name, escape(value)) for name, value in run.versions.items()),
        *(paragraph(warning, css="sd-muted") for warning in run.warnings),
    ]
    # A chart is drawn in the colours of the light theme; a dark one repaints it.
    repaint = "".join(
        f'[{what}="{light}"] {{ {what}: light-dark({light}, {dark}); }}\n'
        for light, dark in COLOUR_PAIRS
        for what in ("fill", "stroke")
    )
    head = [
        Html('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        Html('<meta name="viewport" content="width=device-width">'),
        element("title", escape(f"{found.title} · SparseDash")),
        Html(f"<style>{_STYLE}{repaint}</style>"),
    ]
    page = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def comparison_words(found: RunResults, pair: Pair) -> tuple[str, str, str]:
    """The verdict on the right model, what it lost (nothing beside itself), and what both rest on."""
    verdict, left, right = verdict_of(found, pair.left, pair.right), pair.left_name, pair.right_name
    sentence, *rest = verdicts.verdict_words(right, verdict, found.tolerance, left)
    flips = verdicts.flip_words(compare_records(pair.left, pair.right))
    early = verdicts.early_stopping_words({left: pair.left, right: pair.right})
    return sentence, "".join(rest[:1]), " ".join(filter(None, [flips, *rest[1:], early]))


def _flip_tables(pair: Pair, passages: Passages | None) -> list[Html]:
    kinds = pair.kinds(range(len(pair.left.outcomes)))
    drawn: list[Html] = []
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
            left, right = pair.outcomes(position)
            end = end_of(passages.contexts[position] if passages else "", CONTEXT_SHOWN)
            texts = (left.target, left.answer.strip(), right.answer.strip())
            change = wording.signed_nats(-pair.fall(position))
            rows.append([f"{left.index + 1:,}", end, *(text[:CONTEXT_SHOWN] for text in texts), change])
        head = ["Passage", "Its end", "Target", pair.left_name, pair.right_name, "Change"]
        drawn.append(table(KINDS[kind], note, head, rows).html)
    return drawn


def _rows(values: Iterable[tuple[str, Html]], css: str = "") -> Html:
    rows = (element("tr", element("th", escape(name), scope="row"), element("td", value)) for name, value in values)
    return element("table", element("tbody", *rows), css=css)


def continuations_section(backend: Backend, run: Run, pair: Pair, passages: Passages | None) -> list[Html]:
    """Both models' stored continuations: of prompts, newest first, then of passages that broke or were fixed.

    Each text has a mark where it parts from the left model's. Empty where nothing was written.
    """
    names, drawn = wording.record_names(run), list[Html]()
    for how, request, stored in islice(_continuations(backend, run, pair, passages), MOST_CONTINUATIONS):
        first, *rest = (text.strip() or "(nothing)" for text in (stored.left, stored.right, *stored.others))
        who = [pair.left_name, pair.right_name, *(names.get(key, key[:8]) for key in request.others)]
        texts = zip(who, [escape(first), *(mark_divergence(first, text)[1] for text in rest)], strict=False)
        stopped = ", stopped before the end" if stored.stopped else ""
        drawn += [paragraph(f"{how}{stopped}", css="sd-muted"), paragraph(end_of(request.prompt, PROMPT_SHOWN))]
        drawn.append(_rows(texts, css="written"))
    legend = f"The mark {DIVERGENCE_SIGN} stands where a text parts from that of {pair.left_name}."
    return [element("h2", escape("What the models wrote")), paragraph(legend, css="sd-muted"), *drawn] if drawn else []


def _continuations(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None
) -> Iterator[tuple[str, ContinuationSettings, Continuation]]:
    """The run's prompts, those that users tried, and the passages that the page's button continues, if it can."""
    left, right = pair.left.key, pair.right.key
    of_run = [ContinuationSettings(left=left, right=right, prompt=prompt) for prompt in run.settings.prompts]
    asked = [(f"A prompt of the run, {sampling_words(each)}", each) for each in of_run]
    tried = (each for each in backend.user_data.prompts(left, right) if each not in of_run)
    asked += [(f"A user's prompt, {sampling_words(each)}", each) for each in tried]
    contexts = passages.contexts if passages else ()
    for kind, positions in pair.kinds(range(len(contexts))).items():
        for position in positions if kind in _FLIPS else ():
            with suppress(SettingsError):
                request = ContinuationSettings(left=left, right=right, prompt=contexts[position])
                asked.append((f"Passage {pair.left.outcomes[position].index + 1:,}, {KINDS[kind].lower()}", request))
    for how, request in asked:
        if (stored := backend.written(request)) is not None:
            yield how, request, stored


def sampling_words(request: ContinuationSettings) -> str:
    """ "first choices, 24 tokens", "temperature 0.7, seed 5, 12 tokens"."""
    if request.temperature_percent == 0:
        return f"first choices, {request.n_tokens} tokens"
    return f"temperature {request.temperature_percent / 100:g}, seed {request.seed}, {request.n_tokens} tokens"


def figure_svg(figure: Any, words: str) -> Html:
    """A plotly figure of lines, marks, error bars, bands and notes as inline SVG. words: for screen readers.

    It draws what `tradeoff_chart` uses of plotly, on one pair of axes, without hover texts.
    """
    return _FigureSvg(figure.to_dict(), words).drawn()


class _FigureSvg:
    """The figure's layout in pixels, and the elements for each part of it."""

    def __init__(self, figure: dict[str, Any], words: str) -> None:
        self.traces, self.layout, self.words = figure["data"], figure["layout"], words
        self.x_axis, self.y_axis, margin = self.layout["xaxis"], self.layout["yaxis"], self.layout["margin"]
        # Fonts without a web page's own are wider: the labels get more than the margin that they have there.
        self.left, self.right, self.top = margin["l"], _SVG_WIDTH - 1.3 * margin["r"], margin["t"]
        self.bottom = self.layout["height"] - margin["b"]
        self.clip = f"plot-{words.split(maxsplit=1)[0].lower()}"

    def drawn(self) -> Html:
        """The SVG element."""
        size = {"width": f"{self.right - self.left}", "height": f"{self.bottom - self.top}"}
        plot = element("rect", x=f"{self.left}", y=f"{self.top}", **size)
        parts = [element("clipPath", plot, id=self.clip), *self._axes()]
        parts += [part for trace in self.traces for part in self._trace(trace)]
        for shape in self.layout.get("shapes", ()):
            ends = [(self.right + shape[f"x{i}"], self._place(0, shape[f"y{i}"], "y")[1]) for i in (0, 1)]
            parts.append(_polyline(ends, shape["line"]))
        parts += [part for note in self.layout["annotations"] for part in self._note(note)]
        box, namespace = f"0 0 {_SVG_WIDTH} {self.layout['height']}", "http://www.w3.org/2000/svg"
        return element("svg", *parts, viewBox=box, role="img", aria_label=self.words, xmlns=namespace)

    def _place(self, x: float, y: float, shares: str = "") -> tuple[float, float]:
        """Pixels of a point. shares: the axes, "x" or "y", on which it is given as a share of the plot."""
        (x_low, x_high), (y_low, y_high) = self.x_axis["range"], self.y_axis["range"]
        across = x if "x" in shares else (x - x_low) / (x_high - x_low)
        up = y if "y" in shares else (y - y_low) / (y_high - y_low)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def _axes(self) -> Iterator[Html]:
        numbers = {"size": 13, "color": self.y_axis["tickfont"]["color"]}
        for value, said in zip(self.y_axis["tickvals"], self.y_axis["ticktext"], strict=True):
            ends = [self._place(x, value, "x") for x in (0, 1)]
            yield _polyline(ends, {"color": self.y_axis["gridcolor"]})
            yield _text(said, (self.left - 6, ends[0][1]), numbers, "end")
        below = self.bottom + self.x_axis["ticklabelstandoff"]
        yield _polyline([(self.left, self.bottom), (self.right, self.bottom)], {"color": self.x_axis["linecolor"]})
        for percent in round_ticks(0, self.x_axis["range"][1]):
            yield _text(f"{percent:g} %", (self._place(percent, 0)[0], below + 14), numbers)
        title, middle = self.x_axis["title"], (self.left + self.right) / 2
        yield _text(self.layout["title"]["text"], (0, 14), self.layout["title"]["font"], "start")
        yield _text(title["text"], (middle, below + 36), title["font"])

    def _trace(self, trace: dict[str, Any]) -> Iterator[Html]:
        at = [self._place(x, y) for x, y in zip(trace["x"], trace["y"], strict=True)]
        clip = "" if trace.get("cliponaxis") is False else f"url(#{self.clip})"
        if "fill" in trace:
            yield element("polygon", points=_points(at), fill=trace["fillcolor"])
        elif "lines" in trace["mode"]:
            yield _polyline(at, trace["line"], clip)
        if bars := trace.get("error_y"):
            line = {"color": bars["color"], "width": bars["thickness"]}
            for x, y, up, down in zip(trace["x"], trace["y"], bars["array"], bars["arrayminus"], strict=True):
                if up or down:
                    yield _polyline([self._place(x, y - down), self._place(x, y + up)], line)
        marker, said = trace.get("marker", {"size": 0}), trace.get("text", ())
        both = (marker["size"], marker.get("symbol"))
        sizes, symbols = (each if isinstance(each, list | tuple) else [each] * len(at) for each in both)
        for place, size, symbol in zip(at, sizes, symbols, strict=True):
            if size:
                yield _text(_SVG_SIGNS.get(symbol, "●"), place, {"size": size + 7, "color": marker["color"]})
        for (x, y), text, i in zip(at, said, count(), strict=False):
            if text:
                font = {"size": trace["textfont"]["size"], "color": trace["textfont"]["color"][i]}
                yield _text(text, (x + 5, y - 5), font, "start", "bottom")

    def _note(self, note: dict[str, Any]) -> Iterator[Html]:
        x, y = self._place(note["x"], note["y"], "".join(axis for axis in "xy" if note[f"{axis}ref"] == "paper"))
        x, y = x + note.get("xshift", 0), y - note.get("yshift", 0)
        if note["showarrow"]:
            arrow = {"color": note["arrowcolor"], "width": note["arrowwidth"]}
            yield _polyline([(x, y + note["ay"]), (x, y), (x - 4, y - 5), (x, y), (x + 4, y - 5)], arrow)
        elif note["text"]:
            yield _text(note["text"], (x, y), note["font"], _ANCHORS[note["xanchor"]], note["yanchor"])


def _points(at: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in at)


def _polyline(at: Sequence[tuple[float, float]], line: Mapping[str, Any], clip: str = "") -> Html:
    width, dash = f"{line.get('width', 1)}", _DASHES.get(line.get("dash", ""), "")
    style = {"fill": "none", "stroke": line["color"], "stroke_width": width, "stroke_dasharray": dash}
    return element("polyline", points=_points(at), clip_path=clip, **style)


def _text(
    said: str, at: tuple[float, float], font: Mapping[str, Any], anchor: str = "middle", vertical: str = "middle"
) -> Html:
    """Text on lines that are parted by <br>. vertical: which edge of it stands at the place, middle or bottom."""
    lines, height = said.split("<br>"), 1.25 * font["size"]
    top = at[1] - height * ((len(lines) - 1) / 2 if vertical == "middle" else len(lines) - 0.5)
    places = [{"x": f"{at[0]:.1f}", "y": f"{top + height * i:.1f}"} for i in range(len(lines))]
    inside = [element("tspan", escape(line), **place) for line, place in zip(lines, places, strict=True)]
    style = {"fill": font["color"], "font_size": f"{font['size']}", "text_anchor": anchor}
    return element("text", *inside, dominant_baseline="central", **style)


def run_document(
    run: Run, dense: Record, sparse: list[Record], tolerance: Tolerance | None = None, result: FindResult | None = None
) -> dict[str, Any]:
    """The run and its records as JSON values. sparse: in the order asked. tolerance: what may be lost; None: usual.

    result: of a search; its sentence is about what it was asked for.
    """
    asked, allowed = run.settings, tolerance or Tolerance()
    judged = judge([measure(dense, record) for record in sparse], allowed, run.n_compared)
    return {
        "format": RESULT_FORMAT,
        "key": run.key,
        "model": {
            "reference": asked.model,
            "identity": run.model_identity,
            "dtype": asked.dtype,
            "source_type": run.source_type or None,
        },
        "corpora": {
            use: {"reference": settings.corpus, "identity": run.corpora[use]}
            for use, settings in (("calibration", asked.calibration), ("evaluation", asked.evaluation))
        },
        "settings": asdict(asked),
        "finished": run.finished,
        "ended": run_ending(run, None) or None,
        "seed": asked.calibration.seed,
        "find": result and find_document(result, asked.methods[0], {each.permille: each.verdict for each in judged}),
        "dense": _answers(dense),
        "sparse": [_sparse(each) | {"verdict": _verdict(each.verdict, allowed)} for each in judged],
        **{name: getattr(run, name) for name in ("seconds", "peak_bytes", "disk_bytes", "versions")},
        "cached": list(run.cached),
        "warnings": list(run.warnings),
        "example": wording.example_words(run) or None,
    }


def _answers(record: Record) -> dict[str, Any]:
    fields = ("index", "target", "last_word_right", "last_token_right", "log_likelihood", "answer")
    return {
        "last_word": asdict(record.last_word),
        "last_token": asdict(record.last_token),
        "word_perplexity": record.word_perplexity if isfinite(record.word_perplexity) else None,
        "passages": [{name: getattr(outcome, name) for name in fields} for outcome in record.outcomes],
    }


def _sparse(judged: Judged) -> dict[str, Any]:
    record, pairs, pruned = judged.record, judged.comparison, judged.record.pruned
    assert pruned is not None, "a sparse record says how it was pruned"
    per_layer = ("widths", "layer_errors", "held_out_errors", "uncompensated_errors", "passage_errors", "sensitivities")
    paired = {name: getattr(pairs, name) for name in ("broke", "mended", "p_value", "difference")}
    return {
        "method": asdict(pruned.method),
        "sparsity_percent": pruned.sparsity_permille / 10,
        "mlp_sparsity": pruned.mlp_sparsity,
        "matmul_ratio": pruned.matmul_ratio,
        **{name: list(getattr(pruned, name)) for name in per_layer},
        "paired": {**paired, "p_adjusted": judged.p_value, "interval": list(pairs.interval)},
        "stopping": record.stopping and asdict(record.stopping),
        **_answers(record),
    }


_LOSS = ("value", "low", "high", "level", "verdict")


def _verdict(found: ToleranceVerdict, tolerance: Tolerance) -> dict[str, Any]:
    """Both losses: the perplexity as a multiple of dense's, the accuracy in points gained."""
    lost, accuracy = found.perplexity, found.accuracy
    # One passage has no interval: its ends are no numbers of JSON.
    ratios = [exp(n) if -LARGEST_LOSS < n < LARGEST_LOSS else None for n in (lost.value, lost.low, lost.high)]
    points = [0.0 - 100 * share for share in (accuracy.value, accuracy.high, accuracy.low)] if accuracy else []
    ratio, change = (
        loss and dict(zip(_LOSS, [*numbers, loss.level, loss.verdict], strict=True))
        for loss, numbers in ((lost, ratios), (accuracy, points))
    )
    return {
        "verdict": found.verdict,
        "tolerance": asdict(tolerance),
        "decided_by": list(found.decided_by),
        "ratio": ratio,
        "points": change,
        "passages_needed": found.passages_needed,
    }
