"""Pictures of a sparse model as markup: chips of what it loses and saves, the layers that were cut,
and its answers as dots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsedash.reporting.html import Html, element, escape, join
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.record_pair import KIND_OF, KINDS, Kind
from sparsedash.reporting.verdicts import VERDICT_SIGNS, loss_with_limit
from sparsedash.reporting.wording import LEVEL, NBSP, kept_noun, quantity
from sparsedash.schema.records import Pruned, Record
from sparsedash.stats.significance import shared_outcomes

PICTURES = Path(__file__).with_name("pictures.css")
"""The style of these pictures and of rulers."""
MAX_DOTS = 600
"""Of more passages one dot stands for several."""
_JUDGED_TOGETHER = "undecided: all models are judged together"
_ANSWERS: tuple[Kind, ...] = ("both-right", "broke", "fixed", "both-wrong")


def model_chip(model: ModelResult, name: str, saves: Sequence[str]) -> Html:
    """A model's verdict, its loss with its own 95 % interval, and what it saves."""
    factor, ends = model.own_loss_words
    basis = (
        f"perplexity, {LEVEL} interval {ends}" if ends else "perplexity, no interval"
    )
    sign = VERDICT_SIGNS[model.verdict.verdict]
    lines = [element("dd", escape(basis), css="sd-muted")]
    loss = model.verdict.perplexity
    if loss.verdict == "undecided" and model.own_perplexity.verdict != "undecided":
        # By the interval above it would be decided; the one that counts is in the fold.
        lines.append(element("dd", escape(_JUDGED_TOGETHER), css="sd-muted"))
    if model.verdict.verdict == "beyond":
        for loss in model.verdict.deciding:
            if loss is not model.verdict.perplexity:
                lines.append(element("dd", escape(f"✕ {loss_with_limit(loss)}")))
    lines += [element("dd", escape(line), css="sd-saves") for line in saves]
    return element(
        "div",
        element("dt", escape(f"{sign.split()[0]} {name}")),
        element("dd", escape(factor), css="sd-figure"),
        *lines,
        css=f"sd-chip sd-chip-{model.verdict.verdict}",
    )


def chip_to_come(name: str) -> Html:
    """The place of a model that is still to be evaluated."""
    return element(
        "div",
        element("dt", escape(f"… {name}")),
        element("dd", escape("–"), css="sd-figure"),
        element("dd", escape("to come"), css="sd-muted"),
        css="sd-chip",
    )


def chips(drawn: Sequence[Html]) -> Html:
    """The chips in a row; in two columns on a phone."""
    return element("dl", *drawn, css="sd-chips")


def layer_strip(pruned: Pruned) -> Html:
    """A bar for each layer, as high as what was kept of it; whole layers that went are crossed
    out.
    """
    noun = kept_noun(pruned.method)
    bars = []
    for i, (kept, dense) in enumerate(pruned.kept_of_dense):
        height = 100 * kept / dense if dense else 100.0
        tip = f"Layer {i + 1}: {kept:,} of {dense:,} {noun} kept"
        css = ""
        if i in pruned.removed_layers:
            height = 0.0
            tip = f"Layer {i + 1}: gone"
            css = "sd-gone"
        elif not dense:
            tip = f"Layer {i + 1}: no {noun}, nothing removed"
        bar = element("i", style=f"height: {height:.1f}%")
        bars.append(element("span", bar, css=css, title=tip))
    n_layers = quantity(len(pruned.widths), "layer")
    return element(
        "div",
        *bars,
        css="sd-layers",
        role="img",
        aria_label=f"{n_layers}. {strip_words(pruned)}",
    )


def strip_words(pruned: Pruned) -> str:
    """Shares that the layers keep, in a sentence."""
    gone = len(pruned.removed_layers)
    if gone:
        return f"{quantity(gone, 'layer')} of {len(pruned.widths)} gone."
    if not pruned.method.is_structured:
        return "Zeros only: every layer keeps its shape."
    cut = [(kept, dense) for kept, dense in pruned.kept_of_dense if dense]
    if not cut:
        return "Nothing was removed."
    if pruned.method.prunes_experts:
        return _experts_words(cut, pruned)
    shares = [100 * kept / dense for kept, dense in cut]
    least = min(shares)
    most = max(shares)
    if most - least < 1:
        return f"Every layer keeps {most:.0f}{NBSP}%."
    return f"Layers keep {least:.0f} to {most:.0f}{NBSP}%."


def _experts_words(mixtures: Sequence[tuple[int, int]], pruned: Pruned) -> str:
    """Share of their experts that the mixtures keep, in a sentence."""
    noun = kept_noun(pruned.method)
    n_layers = len(pruned.widths)
    counts = dict.fromkeys(f"{kept:,} of {dense:,}" for kept, dense in mixtures)
    subject = "Every layer keeps"
    if len(mixtures) < n_layers:
        subject = (
            f"{quantity(len(mixtures), 'layer')} of {n_layers} with experts: each keeps"
        )
    if len(counts) > 1:
        n_kept = sum(kept for kept, _ in mixtures)
        n_dense = sum(dense for _, dense in mixtures)
        return f"{n_kept:,} of {n_dense:,} {noun} kept."
    return f"{subject} {next(iter(counts))} {noun}."


def answer_kinds(dense: Record, sparse: Record) -> dict[Kind, list[int]]:
    """The numbers of the passages by what became of their answers, from 1."""
    numbers: dict[Kind, list[int]] = {kind: [] for kind in _ANSWERS}
    for first, second in shared_outcomes(dense, sparse):
        kind = KIND_OF[first.last_word_right, second.last_word_right]
        numbers[kind].append(first.index + 1)
    return numbers


def answer_dots(
    numbers: Mapping[Kind, Sequence[int]], addresses: Mapping[Kind, str]
) -> Html:
    """A dot for each passage, by what became of its answer, under the counts.

    addresses: of the page that shows the passages of a kind; a dot adds its passage. The dots are
    for the mouse: the keyboard has the counts.
    """
    n_passages = sum(map(len, numbers.values()))
    per_dot = -(-n_passages // MAX_DOTS)
    groups = []
    for kind, of_kind in numbers.items():
        address = addresses.get(kind, "")
        count = escape(f"{KINDS[kind]} {len(of_kind):,}")
        if address and of_kind:
            count = element("a", count, href=address, target="_self")
        dots = []
        for number in of_kind[::per_dot]:
            if address:
                to = f"{address}&passage={number}"
                dots.append(
                    element(
                        "a",
                        href=to,
                        target="_self",
                        tabindex="-1",
                        title=f"Passage {number:,}",
                    )
                )
            else:
                dots.append(element("span"))
        groups.append(
            element(
                "div",
                element("p", count, css="sd-dots-count"),
                element("div", *dots, css="sd-dots", aria_hidden="true"),
                css=f"sd-dots-{kind}",
            )
        )
    note = Html("")
    if per_dot > 1:
        note = element(
            "p", escape(f"A dot: {per_dot} passages."), css="sd-muted sd-small"
        )
    return join(element("div", *groups, css="sd-answers-map"), note)
