"""What pruning cost in one run: the sentence, at most three numbers, the chart and its table; and the list of runs."""

import streamlit as st

from sparsedash.charts import (
    accuracy_chart,
    accuracy_words,
    add_published_,
    clicked,
    published_beside,
    published_words,
    repainting,
)
from sparsedash.records import Record, Run
from sparsedash.significance import Paired, judge
from sparsedash.ui import frame, wording
from sparsedash.ui.pair import offers
from sparsedash.ui.sweep import Sweep, answer, best
from sparsedash.ui.text import Html, element, escape, label, table

_TABLE_HEAD = [
    "Model", "MLP removed", "Linear weights removed", "Right", "Accuracy", "95 % interval", "Change, points",
    "95 % interval", "p, adjusted", "Broke", "Mended", "Word perplexity",
]  # fmt: skip


def show_answer(found: Sweep) -> None:
    """The sentence that a run's page opens with."""
    settings = found.run.settings
    frame.opening(
        answer(found), f"{wording.title(settings.model)} · {wording.run_details(settings)}"
    )


def show_numbers(found: Sweep) -> None:
    """The headline numbers, the chart and its table; what is missing while the run goes on is left out."""
    settings = found.run.settings
    frame.show(element("dl", *_numbers(found), css="sd-numbers"))
    frame.show(Html(f"<style>{repainting()}</style>"))
    figure = accuracy_chart(found.dense, found.lines, frame.theme(), settings.sparsities_permille)
    published = published_beside(found.dense)
    add_published_(figure, published, frame.theme())
    selected = st.plotly_chart(
        figure,
        theme=None,
        config={"displayModeBar": False, "responsive": True},
        alt=accuracy_words(found.dense, found.lines) + published_words(published),
        key="accuracy",
        on_select="rerun",
        selection_mode="points",
    )
    _open_comparison(found, clicked(selected["selection"]["points"]))
    hint = "Click a sparse point to see its answers beside the dense model's."
    frame.show(element("p", escape(hint), css="sd-muted sd-small"))
    with st.expander("The numbers as a table"):
        frame.show(numbers_table(found))
    for warning in found.run.warnings:
        frame.note(warning)


def _open_comparison(found: Sweep, key: str) -> None:
    """Go to the compare page of the record that was clicked, if one was."""
    name = next((offer.address for offer in offers(found.run, ()) if key and offer.key == key), "")
    if name:
        address = {"run": found.run.key, "right": name}
        st.switch_page("pages/compare.py", query_params=address)


def numbers_table(found: Sweep) -> Html:
    """Every record of the run with its doubt, as a table."""
    return table("The numbers of this run", _caption(found), _TABLE_HEAD, _rows(found))


def list_runs(runs: list[Run], chosen: str) -> None:
    """The last runs as links to themselves; the one being shown is marked."""
    for run in runs:
        with st.container(gap=None):
            frame.link("overview", label(wording.run_title(run.settings)), run=run.key)
            parts = [
                wording.moment(run.started_at, frame.zone()),
                wording.run_details(run.settings),
            ]
            parts += [] if run.finished else ["not finished"]
            parts += ["shown above"] if run.key == chosen else []
            frame.show(element("p", escape(" · ".join(parts)), css="sd-muted sd-small"))


def _numbers(found: Sweep) -> list[Html]:
    """Dense, and the mildest and the hardest pruning of the best method."""
    rows = best(found)
    right = f"{found.dense.last_word.right:,} of {found.dense.last_word.total:,} last words right"
    numbers = [_number("Dense", found.dense, right)]
    for record, pair, p in [rows[0], rows[-1]] if len(rows) > 1 else rows:
        change = f"{wording.signed(pair.difference)} points, {wording.shown(judge(pair, p))}{_adjusted(found)}"
        numbers.append(_number(_name(found, record), record, change))
    return numbers


def _number(name: str, record: Record, below: str) -> Html:
    return element(
        "div",
        element("dt", escape(name)),
        element("dd", escape(wording.percent(record.last_word.accuracy)), css="sd-figure"),
        element(
            "dd", escape(f"95 % interval {wording.interval(record.last_word)}"), css="sd-muted"
        ),
        element("dd", escape(below), css="sd-muted"),
        css="sd-sparse" if record.pruned else "sd-dense",
    )


def _name(found: Sweep, record: Record) -> str:
    method = f"{found.method(record)}, " if len(found.run.settings.methods) > 1 else ""
    return f"{method}{wording.permille(record.sparsity_permille)} of the MLP removed"


def _rows(found: Sweep) -> list[list[str]]:
    rows = []
    compared = [None, *zip(found.paired, found.p_values, strict=True)]
    for (name, record), pair in zip(found.records.items(), compared, strict=True):
        pruned = record.pruned
        removed = (
            [wording.percent(s) for s in (pruned.mlp_sparsity, pruned.matmul_ratio)]
            if pruned
            else ["0", "0"]
        )
        score = record.last_word
        row = [
            name,
            *removed,
            f"{score.right:,} of {score.total:,}",
            wording.percent(score.accuracy),
        ]
        row += [wording.interval(score), *_change(pair), f"{record.word_perplexity:,.2f}"]
        rows.append(row)
    return rows


def _change(pair: tuple[Paired, float] | None) -> list[str]:
    if pair is None:
        return [""] * 5
    compared, p = pair
    low, high = (wording.signed(bound) for bound in compared.interval)
    return [
        wording.signed(compared.difference), f"{low} to {high}", wording.p_number(p), f"{compared.broke:,}", f"{compared.mended:,}",
    ]  # fmt: skip


def _adjusted(found: Sweep) -> str:
    n = len(found.sparse)
    return f", p adjusted for {n} comparisons" if n > 1 else ""


def _caption(found: Sweep) -> str:
    several = f" over {len(found.sparse)} comparisons" if len(found.sparse) > 1 else ""
    return (
        "Last word of each passage. Intervals of accuracies are Wilson's; changes are paired against dense, their "
        f"p-values exact McNemar, adjusted after Holm{several}."
    )
