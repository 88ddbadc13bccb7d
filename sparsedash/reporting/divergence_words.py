"""Divergence of two models on one text in llama.cpp's words and units: a table, a sentence and a
document.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from sparsedash.reporting.html import Table
from sparsedash.reporting.verdicts import VERDICT_SIGNS
from sparsedash.reporting.wording import (
    MINUS,
    first_upper,
    limit_factor,
    quantity,
    size,
)
from sparsedash.schema.divergence_records import DivergenceFigures, Estimate
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.divergence_figures import MAX_CUT
from sparsedash.stats.task_verdicts import TaskVerdict, joint_verdict
from sparsedash.stats.tolerance import MIN_PASSAGES, Loss

_TOO_FEW = "too few tokens"
DIVERGENCE_FORMAT = "sparsedash.divergence/1"
DIVERGENCES_FORMAT = "sparsedash.divergences/1"
_VERDICTS = {
    "within": "{name} stays within the limit: perplexity {ratio} (limit {limit}).",
    "beyond": "{name} costs too much: perplexity {ratio} (limit {limit}).",
    "undecided": "{name} is too close to call: perplexity {ratio} (limit {limit}).",
}


@dataclass(frozen=True, kw_only=True)
class ModelDivergence:
    """A model beside its base. loss: the verdict on perplexity; None where the blocks of text are
    not known. size_bytes: of its file; None where that is not known. n_cut: right tokens that its
    base file cuts off.
    """

    name: str
    figures: DivergenceFigures
    loss: Loss | None = None
    size_bytes: int | None = None
    n_cut: int = 0


def models_rows(models: Sequence[ModelDivergence]) -> list[list[str]]:
    """The table of several models: its head, then a row a model, the nearest to the base first."""
    rows = [["model", "size", "mean KLD", "±", "99.0 % KLD", "RMS Δp", "same top p"]]
    rows[0] += ["PPL(Q)/PPL(base)", "verdict"]
    for model in sorted(models, key=lambda model: model.figures.kl.value):
        figures = model.figures
        high = figures.kl_quantiles.get(0.99)
        row = [
            model.name,
            "" if model.size_bytes is None else size(model.size_bytes),
            _nats(figures.kl.value),
            _nats(figures.kl.error),
            _nats(high) or _TOO_FEW,
            _percent(figures.delta_rms.value),
            _percent(figures.same_top.value),
            _nats(figures.ratio.value),
            "" if model.loss is None else VERDICT_SIGNS[model.loss.verdict],
        ]
        rows.append(row)
    return rows


def divergence_rows(figures: DivergenceFigures) -> list[list[str]]:
    """The table: its head, then a row a figure; KLD in nats, probabilities in percent."""
    rows = [["figure", "value", "±"], _row("Mean KLD", figures.kl)]
    for q, value in figures.kl_quantiles.items():
        name = "Median" if q == 0.5 else f"{100 * q:.1f} %"
        rows.append([f"{name} KLD", _nats(value) or _TOO_FEW, ""])
    rows.append(["Maximum KLD", _nats(figures.kl_max), ""])
    rows.append(_percent_row("Mean Δp", figures.delta))
    rows.append(_percent_row("RMS Δp", figures.delta_rms))
    for q, value in figures.delta_quantiles.items():
        rows.append([f"{100 * q:.1f} % Δp", _percent(value) or _TOO_FEW, ""])
    rows.append(_percent_row("Same top p", figures.same_top))
    rows.append(_row("PPL(Q)/PPL(base)", figures.ratio))
    rows.append(["PPL(Q)", f"{figures.perplexity:.4f}", ""])
    rows.append(["PPL(base)", f"{figures.base_perplexity:.4f}", ""])
    return rows


def _row(name: str, estimate: Estimate) -> list[str]:
    return [name, _nats(estimate.value), _nats(estimate.error)]


def _percent_row(name: str, estimate: Estimate) -> list[str]:
    return [name, _percent(estimate.value), _percent(estimate.error)]


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}".replace("-", MINUS)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3f} %".replace("-", MINUS)


def divergence_sentence(model: ModelDivergence, tolerance: Tolerance) -> str:
    """The verdict on perplexity; "" where none is possible."""
    loss = model.loss
    if loss is None:
        return ""
    ratio = f"{exp(loss.value):.3f} ×"
    limit = limit_factor(tolerance.ratio)
    sentence = _VERDICTS[loss.verdict].format(name=model.name, ratio=ratio, limit=limit)
    if loss.verdict == "undecided" and loss.needed:
        return f"{sentence} About {max(loss.needed, MIN_PASSAGES):,} blocks would settle it."
    return sentence


def cut_sentence(model: ModelDivergence) -> str:
    """How far the figures are bounds, since a base file cuts off what is very unlikely; "" where
    they are none.
    """
    if not model.n_cut:
        return ""
    n_tokens = model.figures.n_tokens or 0
    sentence = (
        f"{model.name}: {quantity(model.n_cut, 'right token')} of {n_tokens:,}, 16 nats or more below the first "
        "choice, cut off in its base file, so that perplexity and KLD are at least these."
    )
    if model.n_cut > MAX_CUT * n_tokens:
        return f"{sentence} Above {100 * MAX_CUT:g} % nothing is within."
    return sentence


def _verdict(model: ModelDivergence) -> TaskVerdict:
    return "not judged" if model.loss is None else model.loss.verdict


def divergence_document(model: ModelDivergence, tolerance: Tolerance) -> dict[str, Any]:
    """Everything as plain values for JSON: nats and shares."""
    verdict = None
    loss = model.loss
    if loss is not None:
        bounds = {"low": exp(loss.low), "high": exp(loss.high)}
        verdict = {
            "verdict": loss.verdict,
            "ratio": exp(loss.value),
            **bounds,
            "level": loss.level,
        }
    return {
        "format": DIVERGENCE_FORMAT,
        "model": model.name,
        "size_bytes": model.size_bytes,
        "n_cut": model.n_cut,
        "sentence": divergence_sentence(model, tolerance),
        "verdict": _verdict(model),
        "tolerance": tolerance.as_document(),
        "perplexity_verdict": verdict,
        **figures_document(model.figures),
    }


def divergences_document(
    models: Sequence[ModelDivergence], text: str, tolerance: Tolerance
) -> dict[str, Any]:
    """Several models as plain values for JSON. text: which they were compared on, in words."""
    sentences = filter(
        None, [divergence_sentence(model, tolerance) for model in models]
    )
    return {
        "format": DIVERGENCES_FORMAT,
        "text": text,
        "sentence": " ".join(sentences),
        "verdict": joint_verdict({_verdict(model) for model in models}),
        "tolerance": tolerance.as_document(),
        "models": [divergence_document(model, tolerance) for model in models],
    }


def figures_document(figures: DivergenceFigures) -> dict[str, Any]:
    """The figures as plain values for JSON: nats and shares."""
    values = asdict(figures)
    for quantiles in ("kl_quantiles", "delta_quantiles"):
        values[quantiles] = {f"{q:g}": value for q, value in values[quantiles].items()}
    return values


def divergence_table(figures: DivergenceFigures) -> Table:
    """The figures of a run's model as a table of pages and reports."""
    caption = (
        f"From dense, in llama.cpp's words: KLD in nats. On {figures.n_tokens:,} tokens of held-out text of the "
        f"built-in mix; ± over {figures.n_blocks:,} blocks of it."
    )
    head, *rows = divergence_rows(figures)
    return Table("Divergence", caption, list(map(first_upper, head)), rows)


def divergence_line(figures: DivergenceFigures) -> str:
    """The figures that are published most, as one sentence."""
    parts = [f"mean KLD {_nats(figures.kl.value)}"]
    high = figures.kl_quantiles.get(0.99)
    if high is not None:
        parts.append(f"99.0 % KLD {_nats(high)}")
    parts.append(f"RMS Δp {_percent(figures.delta_rms.value)}")
    parts.append(f"same top p {_percent(figures.same_top.value)}")
    return f"From dense on {figures.n_tokens:,} tokens: {', '.join(parts)}."
