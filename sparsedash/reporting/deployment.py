"""What a sparse model brings in use: speed, bytes, shapes, and the runtimes that load its files.

Only what was measured, or is exact from the widths, is said.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

from sparsedash.catalog import model_shape
from sparsedash.catalog.families import FAMILIES
from sparsedash.catalog.model_shape import ModelShape
from sparsedash.catalog.presets import spec_name
from sparsedash.reporting import wording
from sparsedash.reporting.charts.tradeoff_data import Gained, Reading
from sparsedash.reporting.html import Table, Value
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.verdicts import level_words, loss_value
from sparsedash.reporting.wording import (
    LEVEL,
    NBSP,
    factor,
    nats_as_factor,
    percent,
    quantity,
    quoted_method,
    size,
)
from sparsedash.schema.export_settings import Export, Proof
from sparsedash.schema.pair_records import Phase, Timing, TimingSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.service.backend import Backend
from sparsedash.stats.races import likelihood_differences

GainName = Literal["reading", "writing", "bytes", "multiply-adds"]
"""Speed of reading a prompt and of writing, as measured; and what is exact from widths."""

GAIN_TITLES: dict[GainName, str] = {
    "reading": "Measured speed-up, reading a prompt (×)",
    "writing": "Measured speed-up, writing (×)",
    "bytes": "Size reduction (×)",
    "multiply-adds": "Fewer multiply-adds, reading 512 tokens (×)",
}
GAIN_PHASES: dict[GainName, Phase] = {"reading": "prefill", "writing": "decode"}
UNTIMED = "the speed was not measured"
MASKED = "zeros in single weights give no speed-up, so they are not timed"
QUANTISED = "torch unpacks quantised weights, so only llama.cpp can time them"
UNKNOWN = "the layer sizes are known once a run or a prompt has loaded the model again"
"""Reasons why models are not shown."""
PREFILL_TOKENS = 512
_SPEED_HEAD = ("What", "Dense", "Sparse", "Ratio", f"{LEVEL} interval", "Ceiling")
FORM_NAMES = {
    "uniform": "one width, or fewer layers",
    "padded": "padded with zeros",
    "masked": "dense shape, zeros in it",
    "gguf": "a file for llama.cpp",
}
Projection = tuple[str, tuple[int, int], tuple[int, int]]
"""Name of a matrix, rows and columns before, rows and columns after; outputs x inputs."""
_SHOULD = "should load"
_CANNOT = "✕ cannot"
_TRIED = "the built-in model in this form was compared with transformers there"
_GENAI = ("llama", "mistral", "qwen2", "qwen3")
"""Families of which OpenVINO GenAI reads GGUF files; a mistral's is a llama file."""
_NO_READER = ("gemma", "gpt_neox", "granite", "olmo2", "phi", "smollm3")
"""Families of which transformers reads no GGUF files."""
_VLLM_CANNOT = {
    "falcon": "its code takes four times the hidden width (models/falcon.py, 0.33.0): export the form masked",
    "gpt_neo": "does not support this architecture (0.32.0)",
}


TimingOf = Callable[..., TimingSettings]
"""Asks for the speed of a sparse model, given its record's key."""


def run_gains(
    backend: Backend, results: RunResults, name: GainName, timing_of: TimingOf
) -> tuple[Gained, Mapping[str, Sequence[ModelResult]]]:
    """What the models of this run win on one axis; and those of which that is not known, by the
    reason.
    """
    known = dict[str, Reading]()
    omitted = dict[str, list[ModelResult]]()
    shape = None if name in GAIN_PHASES else backend.model_shape(results.dense)
    for model in results.judged:
        request = timing_of(sparse=model.record.key)
        if model.spec.is_quantised and name in GAIN_PHASES and request.runtime == "torch":
            gain = None
            why = QUANTISED
        elif name not in GAIN_PHASES:
            gain = _exact_gain(
                shape,
                model.record.pruned,
                results.dense.dtype,
                name,
            )
            why = UNKNOWN
        elif model.method.is_structured:
            timing = backend.result(Timing, request.key())
            phase = timing.timed(GAIN_PHASES[name]) if timing else None
            gain = None
            why = UNTIMED
            if phase is not None:
                speed = phase.ratio
                most = factor(phase.ceiling)
                interval = f"{LEVEL} interval {speed.low:.2f} to {speed.high:.2f}"
                words = f"{factor(speed.value)} as fast, {interval}; ceiling {most}"
                gain = Reading(
                    speed.value,
                    speed.low,
                    speed.high,
                    words,
                )
        else:
            gain = None
            why = MASKED
        if gain is None:
            omitted.setdefault(why, []).append(model)
        else:
            known[model.record.key] = gain
    return Gained(name=GAIN_TITLES[name], gains=known), omitted


def structure_sentence(backend: Backend, results: RunResults) -> str:
    """Of a run with narrower and with fewer layers: which to choose for size, KV cache and speed,
    by its own numbers.

    The best method of each, at the sparsity that the answer names, or else the largest that both
    have; nothing without both, nor of shares of the MLP channels, which leave models of two sizes.
    """
    kinds: list[dict[int, list[ModelResult]]] = [{}, {}]
    for model in sorted(
        results.judged,
        key=lambda candidate: candidate.verdict.perplexity.value,
    ):
        method = model.method
        if (
            method.is_structured
            and not model.spec.is_quantised
            and model.permille
            and method.budget != "channels"
        ):
            kinds[method.removes_layers].setdefault(model.permille, []).append(model)
    if not (common := kinds[0].keys() & kinds[1].keys()):
        return ""
    named = results.headline.sparsity_permille if results.headline else None
    permille = named if named in common else max(common)
    pair = tuple(kind[permille][0] for kind in kinds)
    narrower, fewer = names = [quoted_method(model.spec) for model in pair]
    first, second = (loss_value(model.verdict.perplexity) for model in pair)
    share = wording.sparsity_words(permille, pair[0].method)
    sentences = [
        f"At {share}: narrower layers ({narrower}, perplexity {first}) or fewer ({fewer}, {second})"
    ]
    if all(model.verdict.verdict == "beyond" for model in pair):
        sentences.append("Both cost more than your limits allow")
    # All pairs of the two kinds count, since the answers chose the best of each and may have chosen
    # the sparsity.
    n_compared = sum(len(kinds[0][model]) * len(kinds[1][model]) for model in common)
    (lost,) = likelihood_differences(
        [(pair[0].record, pair[1].record)],
        n_compared,
    )
    if lost.is_shown:
        better, worse = names if lost.value > 0 else reversed(names)
        interval = wording.factor_range(*sorted((abs(lost.low), abs(lost.high))))
        times = f"{nats_as_factor(abs(lost.value))} as high, {level_words(lost.level)} interval {interval}"
        sentences.append(f"For size {better}: the word perplexity of {worse} is {times}")
    else:
        sentences.append(
            f"For size: which loses less is undecided on {quantity(lost.n_passages, 'passage')}"
        )
    cache = pair[1].record.pruned.reached["kv-cache"] if pair[1].record.pruned else 0.0
    sentences.append(f"For the KV cache {fewer}: it is {percent(cache)} smaller")
    requests = [
        TimingSettings(
            dense=results.dense.key,
            sparse=model.record.key,
        )
        for model in pair
    ]
    timings = [backend.result(Timing, model.key()) for model in requests]
    speeds = [phase.ratio for timing in timings if timing and (phase := timing.timed("decode"))]
    if len(speeds) < len(pair):
        sentences.append("For speed: not measured yet; “Plot loss against” offers it")
    else:
        first_speed, second_speed = speeds
        apart = second_speed.low > first_speed.high or first_speed.low > second_speed.high
        name = (
            (fewer if second_speed.value > first_speed.value else narrower) if apart else "either"
        )
        sentences.append(
            f"For speed {name}: they write {factor(first_speed.value)} and "
            f"{factor(second_speed.value)} as fast as dense"
        )
    return f"{'. '.join(sentences)}."


def _exact_gain(
    shape: ModelShape | None, pruned: Pruned | None, dtype: str, name: GainName
) -> Reading | None:
    """None where the sizes of the model are not noted, or are another one's."""
    assert pruned is not None, "a judged model is sparse"
    if shape is None or shape.widths != pruned.dense_widths:
        return None
    if name == "bytes":
        before, after = (
            model_shape.weight_bytes(shape, widths, dtype)
            for widths in (shape.widths, pruned.widths)
        )
        if quantised := pruned.quantised:
            before = quantised.dense_bytes
            after = quantised.n_bytes
        value = before / after
        words = f"{size(before)} → {size(after)}"
    else:
        value = model_shape.prefill_ceiling(
            shape,
            pruned.widths,
            PREFILL_TOKENS,
        )
        words = f"{factor(value)} fewer multiply-adds"
    return Reading(
        value,
        value,
        value,
        words,
    )


def speed_table(name: str, timing: Timing, of: str = "") -> Table:
    """One row for each phase, one for the bytes of the weights, one for the memory that they take
    where it is known.

    name: of the sparse model. of: see `Table`.
    """
    rows = []
    data = list[dict[str, Value]]()
    for phase in timing.phases:
        ratio = phase.ratio
        (dense_s, sparse_s) = map(median, (phase.dense_s, phase.sparse_s))
        what = {
            "prefill": f"prefill, {phase.batch} × {timing.n_prompt} tokens",
            "decode": f"decode, {phase.batch} × {timing.n_decode} after {timing.n_prompt}",
            "load": "load",
        }[phase.phase]
        interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
        rows.append(
            [
                what,
                _short_time(dense_s),
                _short_time(sparse_s),
                factor(ratio.value),
                interval,
                factor(phase.ceiling),
            ]
        )
        measured: dict[str, Value] = {
            "what": what,
            "dense_s": dense_s,
            "sparse_s": sparse_s,
            "ratio": ratio.value,
        }
        data.append(
            {
                **measured,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "ceiling_ratio": phase.ceiling,
            }
        )
    weights = [("weights on disk", timing.dense_bytes, timing.sparse_bytes, "exact")]
    if timing.dense_resident and timing.sparse_resident:
        weights.append(
            ("weights in memory", timing.dense_resident, timing.sparse_resident, "measured once")
        )
    for what, dense, sparse, how in weights:
        rows.append(
            [
                what,
                size(dense),
                size(sparse),
                factor(dense / sparse),
                how,
                "",
            ]
        )
        data.append(
            {
                "what": what,
                "dense_bytes": dense,
                "sparse_bytes": sparse,
                "ratio": dense / sparse,
            }
        )
    caption = f"{name}: {timing_conditions(timing)}."
    return Table(
        f"Speed of {name}",
        caption,
        list(_SPEED_HEAD),
        rows,
        data=data,
        of=of,
    )


def timing_conditions(timing: Timing) -> str:
    """On what it was measured, in one line."""
    threads = wording.quantity(timing.n_threads, "thread")
    how = "seconds: medians; ratio: middle half of the rounds, both models in random order"
    what: str = timing.dtype
    if timing.runtime == "llama.cpp":
        what = f"llama.cpp (binding {timing.versions['llama-cpp-py-sync']}), {timing.weights} versus dense in F16"
    return f"{timing.machine}, {threads}, {what}; {how}"


def ceiling_words(timing: Timing) -> str:
    """What ceilings are, and whether the intervals are as narrow as asked for."""
    text = (
        "Ceiling: the speed-up if only multiply-adds (prefill) or bytes (decode, load) took time."
    )
    if any(phase.phase == "load" for phase in timing.phases):
        text += " Loading is from the system's cache."
    if timing.weights not in ("", "F16"):
        text += " F16 is bound by memory, quantised weights by arithmetic, so the ratio drifts on a shared machine."
    return (
        text
        if timing.precise
        else f"{text} Some intervals are wider than asked for: the time ran out."
    )


def _short_time(seconds: float) -> str:
    """Three figures: 0.0123 -> "12.3 ms"."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g}{NBSP}ms"
    return f"{seconds:.3g}{NBSP}s" if seconds < 999.5 else f"{seconds:,.0f}{NBSP}s"


def block_shapes(shape: ModelShape, pruned: Pruned) -> list[list[Projection]]:
    """The MLP projections of every block; empty where the sizes are another model's."""
    if shape.widths != pruned.dense_widths or shape.family not in FAMILIES:
        return []
    family = FAMILIES[shape.family]
    d = shape.hidden
    blocks = []
    for before, after in zip(shape.widths, pruned.widths, strict=True):
        inner = [
            (name, (family.fused * before, d), (family.fused * after, d)) for name in family.inner
        ]
        every = [*inner, (family.out, (d, before), (d, after))]
        blocks.append([(name.rpartition(".")[2], old, new) for name, old, new in every])
    return blocks


def shapes_table(shape: ModelShape, pruned: Pruned, dtype: str, of: str = "") -> Table:
    """Shapes and bytes of the whole model, its MLPs and every layer; its file has the exact bytes.
    of: see `Table`.
    """
    blocks = block_shapes(shape, pruned)
    sizes = _mlp_bytes(shape, pruned, dtype)
    names = [name for name, _, _ in blocks[0]]
    mlps = sum(before for before, _ in sizes), sum(after for _, after in sizes)
    parts: list[tuple[str, tuple[int, int], list[Projection]]] = [
        ("Whole model", _model_bytes(shape, pruned, dtype), []),
        ("All MLPs", mlps, []),
        *((f"Layer {i}", *layer) for i, layer in enumerate(zip(sizes, blocks, strict=True), 1)),
    ]
    rows = []
    for part, (before, after), projections in parts:
        shapes = [
            " → ".join(dict.fromkeys(f"{rows:,} × {columns:,}" for rows, columns in both))
            for _, *both in projections
        ]
        figures = [
            _block_size(before),
            _block_size(after),
            percent(1 - after / before),
        ]
        rows.append([part, *figures, *(shapes or [""] * len(names))])
    n = model_shape.removed_channels(shape, pruned.widths)
    kept = f"{n:,} of {sum(shape.widths):,} inner channels removed."
    if pruned.method.removes_layers:
        n_layers = model_shape.removed_layers(pruned.widths)
        kept = f"{n_layers} of {len(pruned.widths)} layers removed, attention included."
    elif n == 0 and not pruned.method.is_structured:
        kept = "Only zeros: every matrix keeps its shape and its bytes."
    caption = (
        f"{kept} Shapes: outputs × inputs of the MLP's projections. Bytes: {dtype} weights and biases of the channels. "
        "The whole model includes attention, embeddings, norms and head."
    )
    head = [
        "Part",
        "Bytes before",
        "Bytes after",
        "Smaller by",
        *names,
    ]
    data = _shape_values(shape, pruned, dtype)
    return Table(
        "Shapes and bytes of this model",
        caption,
        head,
        rows,
        data=data,
        of=of,
    )


def _shape_values(shape: ModelShape, pruned: Pruned, dtype: str) -> list[dict[str, Value]]:
    """Exact bytes: a row for each projection of each block, one for its MLP, then the total. layer:
    from 1.
    """
    rows = list[dict[str, Value]]()
    layers = zip(
        block_shapes(shape, pruned),
        _mlp_bytes(shape, pruned, dtype),
        strict=True,
    )
    for i, (projections, (before, after)) in enumerate(layers, 1):
        for name, old, new in projections:
            sizes = zip(
                ("rows_before", "columns_before", "rows_after", "columns_after"),
                (*old, *new),
                strict=True,
            )
            rows.append({"layer": i, "part": name, **dict(sizes)})
        rows.append(
            {
                "layer": i,
                "part": "MLP",
                "bytes_before": before,
                "bytes_after": after,
            }
        )
    before, after = _model_bytes(shape, pruned, dtype)
    return [
        *rows,
        {
            "layer": None,
            "part": "whole model",
            "bytes_before": before,
            "bytes_after": after,
        },
    ]


def _mlp_bytes(shape: ModelShape, pruned: Pruned, dtype: str) -> list[tuple[int, int]]:
    """Bytes of each block's MLP before and after."""
    channel_bytes = (shape.per_channel + shape.bias_per_channel) * model_shape.WEIGHT_BYTES[dtype]
    return [
        (before * channel_bytes, after * channel_bytes)
        for before, after in zip(shape.widths, pruned.widths, strict=True)
    ]


def _model_bytes(shape: ModelShape, pruned: Pruned, dtype: str) -> tuple[int, int]:
    return model_shape.weight_bytes(
        shape,
        shape.widths,
        dtype,
    ), model_shape.weight_bytes(
        shape,
        pruned.widths,
        dtype,
    )


def _block_size(n_bytes: int) -> str:
    """With a decimal more than elsewhere: blocks are small, and what they lose would be rounded
    away.
    """
    return f"{n_bytes / 1e6:.1f}{NBSP}MB" if 1e6 <= n_bytes < 1e9 else size(n_bytes)


def proof_words(proof: Proof) -> str:
    """The result of the reload proof, in a sentence."""
    return (
        f"Proven by {proof.runtime} {proof.version} in a fresh process: {_logits(proof)}; of {proof.n_verdicts} "
        f"answers {proof.n_meant} are as by the model in memory and {proof.n_run} as in the run."
    )


def _logits(proof: Proof) -> str:
    agree = "identical" if proof.logit_difference == 0 else f"within {proof.logit_difference:.1e}"
    return f"logits of {proof.n_logits} passages {agree}"


def export_title(export: Export, record: Record | None) -> str:
    """ "SmolLM2 135M (built in), best 20 %"."""
    model = wording.reference_title(export.model)
    if record is None or record.pruned is None:
        return model
    spec = record.pruned.spec
    method = record.pruned.method
    return f"{model}, {spec_name(spec)} {wording.sparsity_words(record.sparsity_permille, method)}"


def upload_command(export: Export) -> str:
    """The shell command that uploads it to the hub; nothing is sent from here."""
    name = export.folder.rstrip("/").rpartition("/")[2]
    return shlex.join(
        [
            "hf",
            "upload",
            f"YOUR-NAME/{name}",
            export.folder,
        ]
    )


def runtime_rows(export: Export) -> list[list[str]]:
    """Where the files load, and why: what was proven, what should by its source, and what cannot.

    docs/exports.md has the versions and how each was tried.
    """
    proof = export.proof
    form = export.form
    why = (
        f"{_logits(proof)}, {proof.n_meant} of {proof.n_verdicts} answers as by the model in memory"
    )
    rows = [
        [
            f"{proof.runtime} {proof.version}",
            "✓ proven here",
            why,
        ]
    ]
    if form == "gguf":
        rows.append(["Ollama, LM Studio", _SHOULD, "run llama.cpp; not tried"])
        if export.layout.startswith("a width for each block"):
            return [
                *rows,
                ["transformers, vLLM, OpenVINO", _CANNOT, "read one width for the whole model"],
            ]
        reads = export.model_type not in _NO_READER
        verb = "has" if reads else "lacks"
        about = f"its GGUF reader {verb} the base's architecture (integrations/ggml.py, 5.24.0)"
        rows.append(
            [
                "transformers",
                _SHOULD if reads else _CANNOT,
                about,
            ]
        )
        genai = _SHOULD if export.model_type in _GENAI else _CANNOT
        return [
            *rows,
            [
                "OpenVINO GenAI",
                genai,
                f"reads GGUF of {', '.join(_GENAI)}",
            ],
        ]
    shape = (
        "the files have the base's own shape"
        if form == "masked"
        else "width and number of layers are read from the config"
    )
    why_not = _VLLM_CANNOT.get(export.model_type, "")
    if export.model_type == "falcon" and (form == "masked" or " layers, " in export.layout):
        why_not = ""
    rows.append(
        [
            "vLLM",
            _CANNOT if why_not else _SHOULD,
            why_not or f"{shape}; {_TRIED}",
        ]
    )
    return [
        *rows,
        ["OpenVINO", _SHOULD, f"{shape}; {_TRIED}"],
        ["llama.cpp", _CANNOT, "reads GGUF files: export the form gguf"],
    ]
