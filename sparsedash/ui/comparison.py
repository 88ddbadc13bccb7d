"""Two models beside each other: the verdict, the two-by-two of flips, and one passage with both answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Literal, get_args

import streamlit as st

from sparsedash.records import Candidate, Outcome, Passages, Record, Run
from sparsedash.ui import frame, wording
from sparsedash.ui.sweep import Sweep
from sparsedash.ui.text import Html, element, escape, paragraph, token, visible

Flip = Literal["both-right", "broke", "mended", "both-wrong"]

_FLIP_TITLES: dict[Flip, str] = {
    "both-right": "Both right",
    "broke": "Broke",
    "mended": "Mended",
    "both-wrong": "Both wrong",
}
_FLIP_ORDER: tuple[Flip, ...] = ("both-right", "broke", "mended", "both-wrong")
DEFAULT_FLIP: Flip = "broke"
_JUMP = "jump"
_RUN = "chosen-run"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two records of one run under the names they have in it; the right one is judged against the left."""

    left_name: str
    left: Record
    right_name: str
    right: Record

    def flips(self) -> dict[Flip, list[int]]:
        """Positions of the passages of each kind, in corpus order."""
        found: dict[Flip, list[int]] = {flip: [] for flip in _FLIP_ORDER}
        for i, (left, right) in enumerate(
            zip(self.left.outcomes, self.right.outcomes, strict=True)
        ):
            found[_flip(left.last_word_right, right.last_word_right)].append(i)
        return found


def choose_run(runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs there are; the address says which one is shown."""
    keys = {run.key: run for run in runs}
    if chosen not in keys:
        return
    zone = frame.zone()
    st.session_state[_RUN] = chosen
    st.selectbox(
        "Run", list(keys), key=_RUN, on_change=_change_run, filter_mode="contains",
        format_func=lambda key: visible(
            f"{wording.run_title(keys[key].settings)}, {wording.moment(keys[key].started_at, zone)}"
        ),
    )  # fmt: skip


def choose_pair(found: Sweep) -> Pair:
    """Draw the two choices of records; dense beside the hardest-pruned one unless the address says otherwise."""
    names = list(found.records)
    left, right = st.columns(2, wrap=False)
    with left:
        first = st.selectbox("Left", names, key="left", bind="query-params", filter_mode=None)
    with right:
        second = st.selectbox(
            "Right", names, index=len(names) - 1, key="right", bind="query-params", filter_mode=None
        )
    return Pair(
        left_name=first, left=found.records[first], right_name=second, right=found.records[second]
    )


def choose_flip(flips: dict[Flip, list[int]], pair: Pair) -> Flip:
    """Draw the two-by-two of buttons: left right or wrong across, right right or wrong down."""
    asked = frame.query("filter")
    chosen: Flip = next((flip for flip in get_args(Flip) if flip == asked), DEFAULT_FLIP)
    with st.container(key="flips", gap="small"):
        for flips_of_row in (_FLIP_ORDER[:2], _FLIP_ORDER[2:]):
            for column, flip in zip(
                st.columns(2, gap="small", wrap=False), flips_of_row, strict=True
            ):
                column.button(
                    f"{_FLIP_TITLES[flip]} · {len(flips[flip]):,}", key=f"flip-{flip}", width="stretch",
                    type="primary" if flip == chosen else "secondary",
                    icon=":material/check:" if flip == chosen else None,
                    on_click=_go, kwargs={"filter": flip, "passage": ""}, help=_explain(flip, pair),
                )  # fmt: skip
    return chosen


def choose_passage(positions: list[int], pair: Pair) -> int | None:
    """Draw the steps through these passages. Returns the position of the chosen one, None where there are none."""
    if not positions:
        return None
    index = {str(pair.left.outcomes[i].index): at for at, i in enumerate(positions)}
    at = index.get(frame.query("passage"), 0)
    with st.container(horizontal=True, vertical_alignment="center", key="steps"):
        for name, icon, to in (
            ("Previous", "chevron_left", at - 1),
            ("Next", "chevron_right", at + 1),
        ):
            inside = 0 <= to < len(positions)
            target = str(pair.left.outcomes[positions[to]].index) if inside else ""
            st.button(
                name, icon=f":material/{icon}:", disabled=not inside, key=f"step-{name}",
                on_click=_go, kwargs={"passage": target},
            )  # fmt: skip
        frame.show(
            element("p", escape(f"{at + 1:,} of {len(positions):,}"), css="sd-muted sd-count")
        )
    indices = list(index)
    st.session_state[_JUMP] = indices[at]
    st.selectbox(
        "Passage", indices, key=_JUMP, on_change=_jump, filter_mode="contains",
        format_func=lambda i: f"{int(i) + 1:,} · {visible(pair.left.outcomes[positions[index[i]]].target)}",
    )  # fmt: skip
    return positions[at]


def show_passage(position: int, pair: Pair, passages: Passages | None) -> None:
    """The context with its target, and both models' answers to it."""
    outcome = pair.left.outcomes[position]
    heading = f"Passage {outcome.index + 1:,}"
    frame.show(element("p", escape(heading), css="sd-muted sd-small"))
    if passages is None:
        frame.note(
            "The text of this passage is no longer stored. Run again with the same settings to bring it back."
        )
    else:
        context = escape(passages.contexts[position])
        target = element("span", escape(outcome.target), css="sd-target")
        frame.show(element("p", context, Html(" "), target, css="sd-passage"))
    sides = [(pair.left_name, pair.left), (pair.right_name, pair.right)]
    answers = [_answer(name, record, record.outcomes[position]) for name, record in sides]
    frame.show(element("div", *answers, css="sd-answers"))


def show_continuations(pair: Pair, left: str, right: str) -> None:
    """What both models wrote after the context, side by side."""
    sides = [(pair.left_name, pair.left, left), (pair.right_name, pair.right, right)]
    written = [
        element(
            "section",
            element("h3", escape(_side_title(name))),
            element("p", escape(text.strip() or "(nothing)"), css="sd-written"),
            css=f"sd-answer {_side(record)}",
        )
        for name, record, text in sides
    ]
    frame.show(element("div", *written, css="sd-answers"))


def _answer(name: str, record: Record, outcome: Outcome) -> Html:
    right = outcome.last_word_right
    sign, word, css = ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    probability = wording.probability(exp(outcome.log_likelihood))
    ranks = ", ".join(f"{t.rank:,}" for t in outcome.tokens)
    rank = f"rank {ranks}" if len(outcome.tokens) == 1 else f"its tokens rank {ranks}"
    return element(
        "section",
        element("h3", escape(_side_title(name))),
        element(
            "p",
            escape(outcome.answer.strip() or "(nothing)"),
            Html(" "),
            element(
                "span",
                element("span", escape(sign), css="sd-sign"),
                escape(f" {word}"),
                css=f"{css} sd-verdict",
            ),
            css="sd-word",
        ),
        paragraph(f"“{outcome.target}” gets {probability}, {rank}", css="sd-muted"),
        _top(outcome),
        css=f"sd-answer {_side(record)}",
    )


def _top(outcome: Outcome) -> Html:
    first = outcome.tokens[0].text if outcome.tokens else ""
    rows = [_candidate(candidate, candidate.text == first) for candidate in outcome.top[:5]]
    caption = element("caption", escape("First choices for the next token"))
    return element("table", caption, element("tbody", *rows), css="sd-top")


def _candidate(candidate: Candidate, hit: bool) -> Html:
    bar = element("span", css="sd-meter", style=f"width: {100 * candidate.probability:.1f}%")
    sign = element("span", escape(" ✓"), css="sd-sign") if hit else Html("")
    return element(
        "tr",
        element("th", token(candidate.text), sign, scope="row", css="sd-hit" if hit else ""),
        element("td", bar),
        element("td", escape(wording.probability(candidate.probability))),
    )


def _flip(left: bool, right: bool) -> Flip:
    if left:
        return "both-right" if right else "broke"
    return "mended" if right else "both-wrong"


def _explain(flip: Flip, pair: Pair) -> str:
    left, right = {
        "both-right": ("right", "right"),
        "broke": ("right", "wrong"),
        "mended": ("wrong", "right"),
        "both-wrong": ("wrong", "wrong"),
    }[flip]
    return f"{pair.left_name} {left}, {pair.right_name} {right}"


def _side(record: Record) -> str:
    return "sd-sparse" if record.pruned else "sd-dense"


def _side_title(name: str) -> str:
    return "Dense" if name == "dense" else f"Sparse, {name}"


def _change_run() -> None:
    _go(run=st.session_state[_RUN], passage="")


def _jump() -> None:
    _go(passage=st.session_state[_JUMP])


def _go(**address: str) -> None:
    """Change the address, which is where this page keeps what is chosen."""
    for name, value in address.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)
