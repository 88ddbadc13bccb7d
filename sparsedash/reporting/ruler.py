"""The verdicts of a run as a picture: a ruler for each method, green where shown within, hatched
where unknown, red where shown beyond; and the files of quantised models on an axis of their size.

As data, and as markup that pages and reports share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparsedash.reporting.findings import LimitEstimate, estimate_limit, find_race
from sparsedash.reporting.html import Html, element, escape, join
from sparsedash.reporting.model_results import ModelResult, limit_bounds, ranked_methods
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    NBSP,
    removed_or_zeroed,
    sparsity_percent,
    spec_title,
)
from sparsedash.schema.method_settings import FIXED_PERMILLE
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.stats.tolerance import Verdict

MAX_SHOWN = 3
"""Rulers before the others are asked for."""
_SIGNS: dict[Verdict, str] = {"within": "✓", "beyond": "✕", "undecided": "?"}
_WORDS: dict[Verdict, str] = {
    "within": "within the limit",
    "beyond": "too much",
    "undecided": "undecided",
}
_LETTER = 0.9
_PHONE_LETTER = 2.1
"""Percent of a ruler that a letter of a label takes, on a wide screen and on a phone."""
_SIGN_LETTERS = 4
"""Letters that have the room of a mark's sign and of the air around it."""
_NEAR_END = 10.0
"""Percent of a ruler from its ends within which a label is not centred."""
_LONG = 8
"""Letters of a label from which it is nowhere centred: on a phone half of it leaves the ruler."""
_AIR = 1.04
_MIN_END = 10.0
_UNTESTED = 1.5
"""Where something can go and no share tested is too much, a ruler goes on to so many percent, or to
so many times the largest share: a track that is green to its end looks as if everything could go.
"""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A model on a ruler. key: of its record; empty of one still to come.

    place: on the axis, in percent. label: its share or type. loss: with its own 95 % interval.
    """

    key: str
    place: float
    label: str
    verdict: Verdict | None
    loss: str = ""


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """The models of one method from 0 to `end` percent, by their place.

    title: of the method. is_tied: whether the best one is not shown to beat it. axis: what was done
    to the shares; the headline or the line under it says what of. within: the end of the green
    part; beyond: the beginning of the red one. Both None on an axis of file size, which has marks
    alone. pin: where interpolation meets the limit.
    """

    title: str
    axis: str
    end: float
    marks: tuple[Mark, ...]
    within: float | None = None
    beyond: float | None = None
    pin: LimitEstimate | None = None
    is_tied: bool = False

    @property
    def shown_title(self) -> str:
        """The title, with the tie."""
        return f"{self.title}, tied" if self.is_tied else self.title

    @property
    def segments(self) -> tuple[tuple[str, float], ...]:
        """Words on the coloured parts of the track and their lengths; none where it has no colours."""
        if self.within is None:
            return ()
        beyond = self.end if self.beyond is None else self.beyond
        return (
            ("can go", self.within),
            ("not known", beyond - self.within),
            ("too much", self.end - beyond),
        )

    @property
    def shown_pin(self) -> LimitEstimate | None:
        """The pin, where its place is on the ruler."""
        return (
            self.pin if self.pin is not None and self.pin.percent <= self.end else None
        )

    def percent_of(self, share: float) -> float:
        """A share of what could be removed as percent of the ruler's length."""
        return 100 * share / self.end

    def pin_span(self, pin: LimitEstimate) -> tuple[float, float, float]:
        """A pin's place and the ends of its range on the ruler, in percent of its length."""
        high = self.end if pin.high is None else min(self.end, pin.high)
        return (
            self.percent_of(pin.percent),
            self.percent_of(pin.low),
            self.percent_of(high),
        )

    @property
    def axis_words(self) -> str:
        """Name of the axis: "0 to 52 % removed"."""
        return f"0 to {self.end:.2g}{NBSP}% {self.axis}"

    @property
    def words(self) -> str:
        """The ruler as a sentence, for a screen reader."""
        parts = [f"{mark.label} {_mark_words(mark)}" for mark in self.marks]
        if self.pin is not None:
            parts.append(f"the limit is probably met at {_pin_words(self.pin)}")
        return f"{self.shown_title}: {', '.join(parts)}."


def run_rulers(results: RunResults, ended: bool = False) -> list[Ruler]:
    """A ruler for each method, the best first, then one for files and fixed patterns.

    ended: no more sparse models come, though the run is not finished.
    """
    settings = results.run.settings
    by_title: dict[str, list[ModelResult]] = {}
    for models in ranked_methods(results.sparse_models):
        title = spec_title(models[0].spec)
        if models[0].method.pattern not in FIXED_PERMILLE:
            by_title[title] = [model for model in models if not model.is_unchanged]
    to_come = {} if ended else _to_come(results)
    for title in to_come:
        by_title.setdefault(title, [])
    rulers = []
    for title, models in by_title.items():
        marks = [_mark(model) for model in models]
        for spec in to_come.get(title, ()):
            label = sparsity_percent(spec.permille)
            marks.append(
                Mark(key="", place=spec.permille / 10, label=label, verdict=None)
            )
        if marks:
            rulers.append(_ruler(results, title, models, marks))
    race = find_race(results)
    tied = {spec_title(model.spec) for model in race.tied} if race else ()
    end = max((ruler.end for ruler in rulers), default=0.0)
    rulers = [replace(ruler, end=end, is_tied=ruler.title in tied) for ruler in rulers]
    if len(rulers) == 1 and not settings.names_methods:
        rulers = [replace(rulers[0], title="")]
    files = _file_marks(results)
    if files:
        end = max(mark.place for mark in files) * _AIR
        axis = "of the dense model's file in 16 bits"
        rulers.append(Ruler(title="File size", axis=axis, end=end, marks=files))
    return rulers


def _ruler(
    results: RunResults,
    title: str,
    models: Sequence[ModelResult],
    marks: Sequence[Mark],
) -> Ruler:
    """The ruler of one method. models: those with a record, at the shares asked for."""
    settings = results.run.settings
    bounds = limit_bounds(models)
    places = {
        model.record.key: mark.place for model, mark in zip(models, marks, strict=False)
    }
    within = places[bounds.within.record.key] if bounds.within else 0.0
    beyond = places[bounds.beyond.record.key] if bounds.beyond else None
    end = max(mark.place for mark in marks)
    is_judged = all(mark.verdict is not None for mark in marks)
    is_open = is_judged and within > 0 and beyond is None
    end = max(_MIN_END, end * _UNTESTED) if is_open else end * _AIR
    methods = [models[0].method] if models else settings.methods
    return Ruler(
        title=title,
        axis=removed_or_zeroed(methods[0]),
        end=min(100.0, end),
        marks=tuple(sorted(marks, key=lambda mark: mark.place)),
        within=within,
        beyond=beyond,
        pin=estimate_limit(results, models),
    )


def _mark(model: ModelResult) -> Mark:
    factor, ends = model.own_loss_words
    loss = f"perplexity {factor}"
    return Mark(
        key=model.record.key,
        # As asked for: rounded widths would part marks of one share on the rulers of two methods.
        place=model.permille / 10,
        label=sparsity_percent(model.permille),
        verdict=model.verdict.verdict,
        loss=f"{loss} ({ends})" if ends else loss,
    )


def _to_come(results: RunResults) -> dict[str, list[SparseSpec]]:
    """The models of an unfinished run that are still to be evaluated, by their method's title."""
    specs: dict[str, list[SparseSpec]] = {}
    if results.run.finished:
        return specs
    for spec in results.run.settings.points[len(results.run.sparse) :]:
        is_fixed = spec.pruning.pattern in FIXED_PERMILLE
        if spec.method and not spec.is_quantised and not is_fixed:
            specs.setdefault(spec_title(spec), []).append(spec)
    return specs


def _file_marks(results: RunResults) -> tuple[Mark, ...]:
    """Quantised models and fixed patterns by the size of their files, the smallest first."""
    marks = []
    for model in results.sparse_models:
        sizes = results.file_bytes(model)
        is_fixed = model.method.pattern in FIXED_PERMILLE
        if not (model.spec.is_quantised or is_fixed):
            continue
        place = 100 * sizes[0] / sizes[1] if sizes else 100.0
        mark = _mark(model)
        label = results.names[model.record.key]
        marks.append(replace(mark, place=place, label=label))
    return tuple(sorted(marks, key=lambda mark: mark.place))


def _mark_words(mark: Mark) -> str:
    if mark.verdict is None:
        return "to come"
    return f"{_WORDS[mark.verdict]}, {mark.loss}"


def _sign(mark: Mark) -> str:
    """The sign before a mark's label."""
    return "…" if mark.verdict is None else _SIGNS[mark.verdict]


def _pin_label(pin: LimitEstimate) -> str:
    """Label beside a pin."""
    return f"estimated limit: {pin.percent:.2g}{NBSP}%"


def _pin_words(pin: LimitEstimate) -> str:
    """ "3.4 % (1.6 to 18 %)", "3 % (1.5 % or more)"."""
    return f"{pin.percent:.2g}{NBSP}% ({pin.interval})"


def rulers_html(
    rulers: Sequence[Ruler], addresses: Mapping[str, str] | None = None
) -> Html:
    """The rulers as markup, one below the other. addresses: where each mark leads, by the key of
    its record.
    """
    drawn = []
    for i, ruler in enumerate(rulers):
        drawn.append(_ruler_html(ruler, addresses or {}, has_axis=_has_axis(rulers, i)))
    return join(*drawn)


def _has_axis(rulers: Sequence[Ruler], i: int) -> bool:
    """Whether a ruler is the last on its axis, and so has its words."""
    return i + 1 == len(rulers) or rulers[i + 1].axis != rulers[i].axis


def _ruler_html(ruler: Ruler, links: Mapping[str, str], has_axis: bool) -> Html:
    parts = []
    if ruler.title:
        parts.append(element("p", escape(ruler.shown_title), css="sd-ruler-title"))
    if ruler.shown_pin is not None:
        parts.append(_pin_html(ruler, ruler.shown_pin))
    elif ruler.within is not None:
        # Its room is kept: an estimate may come while a run fills the ruler.
        parts.append(element("div", css="sd-ruler-pin"))
    parts.append(_track_html(ruler))
    places = [ruler.percent_of(mark.place) for mark in ruler.marks]
    labels = [mark.label for mark in ruler.marks]
    wide = _lanes(places, labels, _LETTER)
    narrow = _lanes(places, labels, _PHONE_LETTER)
    marks = []
    for mark, place, lane, phone_lane in zip(
        ruler.marks, places, wide, narrow, strict=True
    ):
        lanes = f"--wide: {lane}; --narrow: {phone_lane}"
        marks.append(_mark_html(mark, place, lanes, links.get(mark.key, "")))
    n_lanes = (
        f"--wide: {max(wide, default=0) + 1}; --narrow: {max(narrow, default=0) + 1}"
    )
    parts.append(element("div", *marks, css="sd-ruler-marks", style=n_lanes))
    if has_axis:
        parts.append(element("p", escape(ruler.axis_words), css="sd-ruler-axis"))
    return element("div", *parts, css="sd-ruler", role="group", aria_label=ruler.words)


def _track_html(ruler: Ruler) -> Html:
    """The coloured track; without colours where the axis has none."""
    if not ruler.segments:
        return element("div", element("span", css="sd-plain"), css="sd-ruler-track")
    drawn = []
    for words, length in ruler.segments:
        if length > 0:
            css, _ = _SEGMENTS[words]
            width = f"width: {ruler.percent_of(length):.2f}%"
            drawn.append(
                element("span", element("b", escape(words)), css=css, style=width)
            )
    return element("div", *drawn, css="sd-ruler-track")


def _pin_html(ruler: Ruler, pin: LimitEstimate) -> Html:
    """The pin over the track, with its range where the intervals meet the limit."""
    place, low, high = ruler.pin_span(pin)
    return element(
        "div",
        element(
            "span",
            css="sd-pin-range",
            style=f"left: {low:.2f}%; width: {high - low:.2f}%",
        ),
        element("span", css="sd-pin-stem", style=f"left: {place:.2f}%"),
        element(
            "span",
            escape(_pin_label(pin)),
            css="sd-pin-label",
            # By as large a part of its own width, it stays within the ruler at any width of that.
            style=f"left: {place:.2f}%; transform: translateX(-{place:.2f}%)",
        ),
        css="sd-ruler-pin",
    )


def _mark_html(mark: Mark, place: float, lanes: str, address: str) -> Html:
    """A mark: a stem from its place down to a label, which stays within the ruler."""
    label = join(element("i", escape(_sign(mark))), escape(f" {mark.label}"))
    css = f"sd-mark sd-mark-{mark.verdict or 'to-come'}"
    style = f"left: {place:.2f}%; {lanes}; --shift: -{_shift(place, mark.label):.0f}%"
    name = f"{mark.label}: {_mark_words(mark)}"
    stem = element("span", css="sd-mark-stem", style=f"left: {place:.2f}%; {lanes}")
    if not address:
        return join(stem, element("span", label, css=css, style=style, title=name))
    return join(
        stem,
        element(
            "a",
            label,
            css=css,
            style=style,
            href=address,
            title=name,
            aria_label=name,
            target="_self",
        ),
    )


_WIDTH = 960
_LEFT = 40
_SPAN = _WIDTH - 2 * _LEFT
_TOP = 112
_TRACK = 44
_LANE = 20
_LETTER_PX = 7.6
"""Of a label of a picture, on average."""
_INKS = {"text": "#22262b", "muted": "#5b6068", "ground": "#fcfbf8", "line": "#d8d4c8"}
_SEGMENTS = {
    "can go": ("sd-can-go", "#cfe8dd"),
    "not known": ("sd-unknown", "url(#hatch)"),
    "too much": ("sd-too-much", "#f3d3cd"),
}
"""Class on a page and fill in a picture of each coloured part, by its words."""
_MARK_INKS: dict[Verdict, str] = {
    "within": "#0b7a5b",
    "beyond": "#b3261e",
    "undecided": "#22262b",
}
_HATCH = Html(
    '<defs><pattern id="hatch" width="9" height="9" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="9" height="9" fill="#f3f1ea"/>'
    '<rect width="4" height="9" fill="#dcd8cc"/></pattern></defs>'
)


def rulers_svg(title: str, about: str, basis: str, rulers: Sequence[Ruler]) -> bytes:
    """The rulers as a picture of its own, under the headline, the run and what it rests on."""
    parts = [
        _text(title, _LEFT, 40, size=22),
        _text(about, _LEFT, 66, ink=_INKS["muted"]),
        _text(basis, _LEFT, 88, ink=_INKS["muted"]),
    ]
    top = _TOP
    for i, ruler in enumerate(rulers):
        places = [ruler.percent_of(mark.place) for mark in ruler.marks]
        lanes = _lanes(places, [mark.label for mark in ruler.marks], _LETTER)
        parts += _ruler_drawing(ruler, lanes, top)
        top += _TRACK + 66 + _LANE * max(lanes, default=0)
        if _has_axis(rulers, i):
            axis = ruler.axis_words
            right = _WIDTH - _LEFT
            parts.append(
                _text(axis, right, top + 14, ink=_INKS["muted"], anchor="end", size=13)
            )
            top += 30
    height = top
    ground = element(
        "rect", width=str(_WIDTH), height=str(height), fill=_INKS["ground"]
    )
    drawn = element(
        "svg",
        _HATCH,
        ground,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height}",
        width=str(_WIDTH),
        height=str(height),
    )
    return drawn.encode()


def _ruler_drawing(ruler: Ruler, lanes: Sequence[int], top: int) -> list[Html]:
    """The parts of a picture that show one ruler. lanes: the row of each mark's label."""
    y = top + _TRACK
    drawn = [_text(ruler.shown_title, _LEFT, top + 16)]
    x = float(_LEFT)
    for words, length in ruler.segments or (("", ruler.end),):
        _, fill = _SEGMENTS.get(words, ("", _INKS["ground"]))
        width = _SPAN * length / ruler.end
        drawn.append(_box(x, y, width, 28, fill, stroke=_INKS["line"]))
        if words and width > 9 * len(words):
            drawn.append(_text(words, x + width / 2, y + 19, anchor="middle"))
        x += width
    labels = []
    for mark, lane in zip(ruler.marks, lanes, strict=True):
        percent = ruler.percent_of(mark.place)
        stem = 14 + _LANE * lane
        drawn.append(_box(_across(percent), y + 22, 1.5, stem, _INKS["muted"]))
        labels += _label_drawing(mark, percent, y + 52 + _LANE * lane)
    # After all stems, since one to a lower row passes behind the labels above it.
    drawn += labels
    if ruler.shown_pin is not None:
        drawn += _pin_drawing(ruler, ruler.shown_pin, top)
    return drawn


def _across(percent: float) -> float:
    """Place on a ruler in a picture, in pixels. percent: of the ruler's length."""
    return _LEFT + _SPAN * percent / 100


def _label_drawing(mark: Mark, percent: float, y: float) -> list[Html]:
    """A mark's label on a ground that hides what is behind it. percent: see `_across`."""
    label = f"{_sign(mark)} {mark.label}"
    width = _LETTER_PX * len(label)
    begin = _across(percent) - width * _shift(percent, mark.label) / 100
    ink = _INKS["muted"] if mark.verdict is None else _MARK_INKS[mark.verdict]
    return [
        _box(begin - 2, y - 14, width + 4, 18, _INKS["ground"]),
        _text(label, begin, y, ink=ink),
    ]


def _pin_drawing(ruler: Ruler, pin: LimitEstimate, top: int) -> list[Html]:
    """The pin of a picture, with its range."""
    place, low, high = map(_across, ruler.pin_span(pin))
    return [
        _box(place, top + 26, 2, 30, _INKS["text"]),
        _box(low, top + 40, high - low, 1.5, _INKS["text"]),
        _text(_pin_label(pin), place + 6, top + 36),
    ]


def _box(
    x: float, y: float, width: float, height: float, fill: str, **attributes: str
) -> Html:
    """A rectangle of a picture."""
    sizes = {
        "x": f"{x:.1f}",
        "y": f"{y:g}",
        "width": f"{width:.1f}",
        "height": f"{height:g}",
    }
    return element("rect", fill=fill, **sizes, **attributes)


def _text(
    words: str,
    x: float,
    y: float,
    *,
    ink: str = _INKS["text"],
    anchor: str = "start",
    size: int = 15,
) -> Html:
    """A line of text of a picture, in a font that every system has."""
    return element(
        "text",
        escape(words),
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        fill=ink,
        text_anchor=anchor,
        font_size=str(size),
        font_family="Helvetica, Arial, sans-serif",
    )


def _shift(place: float, label: str) -> float:
    """Share of a label that stands left of its place: half, but less or more near the ends; of a long
    one as large a part as of the ruler, so that it stays within.
    """
    if len(label) > _LONG:
        return place
    if place < _NEAR_END:
        return 50 * place / _NEAR_END
    return max(50.0, 100 - 50 * (100 - place) / _NEAR_END)


def _lanes(places: Sequence[float], labels: Sequence[str], letter: float) -> list[int]:
    """The row of each label, so that none covers another. places: rising; letter: what one of a
    label takes; all in percent of the ruler.
    """
    ends: list[float] = []
    lanes = []
    for place, label in zip(places, labels, strict=True):
        width = letter * (len(label) + _SIGN_LETTERS)
        begin = place - width * _shift(place, label) / 100
        lane = next((i for i, end in enumerate(ends) if end <= begin), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = begin + width
        lanes.append(lane)
    return lanes
