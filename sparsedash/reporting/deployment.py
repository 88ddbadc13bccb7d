"""Gains of a sparse model in use: speed, bytes, shapes, and the runtimes that load its files.

Only what was measured, or is exact from the widths, is said.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

from sparsedash.catalog import model_sizes
from sparsedash.catalog.presets import spec_name
from sparsedash.reporting.charts.tradeoff_data import GainAxis, Reading
from sparsedash.reporting.html import Table, Value
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.verdicts import level_words, loss_value
from sparsedash.reporting.wording import (
    LEVEL,
    NBSP,
    and_join,
    factor,
    factor_range,
    nats_as_factor,
    percent,
    quantity,
    quoted_method,
    reference_title,
    size,
    sparsity_words,
    weights_of,
)
from sparsedash.reporting.wording import weights as weights_words
from sparsedash.schema.export_settings import Export, Proof
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.pair_records import Phase, Runtime, Timing, TimingSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.service.backend import Backend
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences

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
    "uniform": "one width, or fewer layers or experts",
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
) -> tuple[GainAxis, Mapping[str, Sequence[ModelResult]]]:
    """Gains of the models of this run on one axis; and those of which that is not known, by the
    reason.
    """
    known: dict[str, Reading] = {}
    omitted: dict[str, list[ModelResult]] = {}
    shape = None if name in GAIN_PHASES else backend.model_shape(results.dense)
    for model in results.sparse_models:
        request = timing_of(sparse=model.record.key)
        gain = None
        if name not in GAIN_PHASES:
            gain = _exact_gain(shape, model.pruned, results.dense.dtype, name)
            why = UNKNOWN
        elif model.spec.is_quantised and request.runtime == "torch":
            why = QUANTISED
        elif model.method.is_structured:
            gain = _speed_up(backend.result(Timing, request.key()), GAIN_PHASES[name])
            why = UNTIMED
        else:
            why = MASKED
        if gain is None:
            omitted.setdefault(why, []).append(model)
        else:
            known[model.record.key] = gain
    return GainAxis(name=GAIN_TITLES[name], gains=known), omitted


def _speed_up(timing: Timing | None, name: Phase) -> Reading | None:
    """The measured speed-up of one phase; None where it was not timed."""
    phase = timing.timed(name) if timing else None
    if phase is None:
        return None
    ratio = phase.ratio
    interval = f"{LEVEL} interval {ratio.low:.2f} to {ratio.high:.2f}"
    words = (
        f"{factor(ratio.value)} as fast, {interval}; ceiling {factor(phase.ceiling)}"
    )
    return Reading(ratio.value, ratio.low, ratio.high, words)


def structure_sentence(backend: Backend, results: RunResults) -> str:
    """Of a run with narrower and with fewer layers: which to choose for size, KV cache and speed,
    by its own numbers.

    The best method of each, at the sparsity that the answer names, or else the largest that both
    have; nothing without both, nor of shares of the MLP channels, which leave models of two sizes.
    """
    narrow, few = _structures(results)
    common = narrow.keys() & few.keys()
    if not common:
        return ""
    permille = results.headline.sparsity_permille if results.headline else 0
    if permille not in common:
        permille = max(common)
    narrower = narrow[permille][0]
    fewer = few[permille][0]
    # All pairs of the two kinds count, since the answers chose the best of each and may have chosen
    # the sparsity.
    n_compared = sum(len(narrow[share]) * len(few[share]) for share in common)
    (difference,) = likelihood_differences(
        [(narrower.record, fewer.record)], n_compared
    )
    names = [quoted_method(model.spec) for model in (narrower, fewer)]
    losses = [loss_value(model.verdict.perplexity) for model in (narrower, fewer)]
    share = sparsity_words(permille, narrower.method)
    sentences = [
        f"At {share}: narrower layers ({names[0]}, perplexity {losses[0]}) "
        f"or fewer ({names[1]}, {losses[1]})"
    ]
    if narrower.verdict.verdict == fewer.verdict.verdict == "beyond":
        sentences.append("Both cost more than your limits allow")
    cache = fewer.pruned.reached["kv-cache"]
    sentences += [
        _better_for_size(names, difference),
        f"For the KV cache {names[1]}: it is {percent(cache)} smaller",
        _better_for_speed(
            backend, results.dense, [narrower.record, fewer.record], names
        ),
    ]
    return f"{'. '.join(sentences)}."


def _structures(
    results: RunResults,
) -> tuple[dict[int, list[ModelResult]], dict[int, list[ModelResult]]]:
    """Models with narrower and with fewer layers, by their sparsity, least loss first."""
    narrower: dict[int, list[ModelResult]] = {}
    fewer: dict[int, list[ModelResult]] = {}
    for model in sorted(
        results.sparse_models, key=lambda model: model.verdict.perplexity.value
    ):
        method = model.method
        if not model.permille or model.spec.is_quantised or method.prunes_experts:
            continue
        if method.is_structured and method.budget != "channels":
            group = fewer if method.removes_layers else narrower
            group.setdefault(model.permille, []).append(model)
    return narrower, fewer


def _better_for_size(names: Sequence[str], difference: LikelihoodDifference) -> str:
    """Which of two models of one size loses less. names: in the order of the difference."""
    if not difference.is_shown:
        passages = quantity(difference.n_passages, "passage")
        return f"For size: which loses less is undecided on {passages}"
    better, worse = names if difference.value > 0 else reversed(names)
    low, high = sorted((abs(difference.low), abs(difference.high)))
    return (
        f"For size {better}: the word perplexity of {worse} is "
        f"{nats_as_factor(abs(difference.value))} as high, "
        f"{level_words(difference.level)} interval {factor_range(low, high)}"
    )


def _better_for_speed(
    backend: Backend, dense: Record, sparse: Sequence[Record], names: Sequence[str]
) -> str:
    """Which of two models writes faster, if both were timed."""
    speeds = []
    for record in sparse:
        request = TimingSettings(dense=dense.key, sparse=record.key)
        timing = backend.result(Timing, request.key())
        phase = timing.timed("decode") if timing else None
        if phase is None:
            return "For speed: not measured yet; “Plot loss against” offers it"
        speeds.append(phase.ratio)
    first, second = speeds
    name = "either"
    if first.low > second.high:
        name = names[0]
    elif second.low > first.high:
        name = names[1]
    return (
        f"For speed {name}: they write {factor(first.value)} and "
        f"{factor(second.value)} as fast as dense"
    )


def savings(
    backend: Backend, results: RunResults, model: ModelResult, weights: str = ""
) -> list[str]:
    """Savings of a model beside dense and beside the file that dense was unpacked from; and memory
    and speed where they were measured.

    weights: the type of both files' weights; that of the run if not given.
    """
    pruned = model.pruned
    shape = backend.model_shape(results.dense)
    if shape is not None and shape.widths != pruned.dense_widths:
        shape = None
    dtype = weights or results.dense.dtype
    sizes = None
    if shape is not None and dtype in model_sizes.WEIGHT_BYTES:
        sizes = _file_bytes(shape, pruned, dtype)
    lines = [_file_line(model, sizes, dtype)]
    if source_bytes := backend.source_bytes(results.run):
        lines.append(_beside_source(sizes, source_bytes))
    if not model.method.is_structured:
        return lines
    if shape is not None and shape.structure.mixtures:
        for name, count in (
            ("weights", model_sizes.parameter_count),
            ("active", model_sizes.active_count),
        ):
            before = weights_words(count(shape, shape.whole))
            lines.append(
                f"{name} {before} → {weights_words(count(shape, pruned.kept))}"
            )
    if pruned.method.removes_experts:
        lines.append("multiply-adds as dense: as many experts a token")
    if pruned.reached.kv_cache:
        lines.append(f"KV cache {percent(pruned.reached.kv_cache)} smaller")
    runtime: Runtime = "llama.cpp" if model.spec.is_quantised else "torch"
    request = TimingSettings(
        dense=results.dense.key, sparse=model.record.key, runtime=runtime
    )
    timing = backend.result(Timing, request.key())
    if timing is None:
        return lines
    if timing.dense_resident and timing.sparse_resident:
        dense_resident = size(timing.dense_resident)
        lines.append(f"memory {dense_resident} → {size(timing.sparse_resident)}")
    titles: dict[Phase, str] = {"prefill": "reading", "decode": "writing"}
    for name, title in titles.items():
        phase = timing.timed(name)
        if phase is not None:
            lines.append(f"{title} {factor(phase.ratio.value)} as fast")
    return lines


def _file_line(model: ModelResult, sizes: tuple[int, int] | None, weights: str) -> str:
    """Saving of a model's file beside dense's.

    sizes: of dense's and its own, with weights of this type; None if not known.
    """
    if not model.method.is_structured:
        return "file as large as dense: zeros stay in it"
    if sizes is None:
        return f"file {percent(model.pruned.reached.bytes)} smaller"
    before, after = sizes
    smaller = f"file {percent(1 - after / before)} smaller"
    # The name of a quantised one has its type.
    named = smaller if model.spec.is_quantised else f"{weights} {smaller}"
    number, unit = size(before).split(NBSP)
    dense_size = number if size(after).endswith(unit) else size(before)
    return f"{named}: {dense_size} → {size(after)}"


def _beside_source(sizes: tuple[int, int] | None, source_bytes: int) -> str:
    """Size of a model's file beside the quantised one that dense was unpacked from.

    sizes: bytes of dense's file and of the model's; None if not known.
    """
    source_size = size(source_bytes)
    if sizes is not None and sizes[1] < source_bytes:
        smaller = percent(1 - sizes[1] / source_bytes)
        return f"{smaller} smaller than the {source_size} source"
    return f"quantised source: {source_size}"


def _exact_gain(
    shape: ModelShape | None, pruned: Pruned, dtype: str, name: GainName
) -> Reading | None:
    """None where the sizes of the model are not noted, or are another one's."""
    if shape is None or shape.widths != pruned.dense_widths:
        return None
    if name == "bytes":
        before, after = _file_bytes(shape, pruned, dtype)
        ratio = before / after
        words = f"{size(before)} → {size(after)}"
    else:
        ratio = model_sizes.prefill_ceiling(shape, pruned.kept, PREFILL_TOKENS)
        words = f"{factor(ratio)} fewer multiply-adds"
    return Reading(ratio, ratio, ratio, words)


def _file_bytes(shape: ModelShape, pruned: Pruned, dtype: str) -> tuple[int, int]:
    """Bytes of dense's file and of the model's, in these types or as both were quantised."""
    if pruned.quantised:
        return pruned.quantised.dense_bytes, pruned.quantised.n_bytes
    return _model_bytes(shape, pruned, dtype)


def speed_table(name: str, timing: Timing, stem: str = "") -> Table:
    """One row for each phase, one for the bytes of the weights, one for the memory that they take
    where it is known.

    name: of the sparse model. stem: see `Table`.
    """
    rows = []
    data: list[dict[str, Value]] = []
    titles: dict[Phase, str] = {
        "prefill": f"{timing.n_prompt} tokens",
        "decode": f"{timing.n_decode} after {timing.n_prompt}",
    }
    for phase in timing.phases:
        title: str = phase.phase
        if phase.phase in titles:
            title = f"{title}, {phase.batch} × {titles[phase.phase]}"
        dense_s = median(phase.dense_s)
        sparse_s = median(phase.sparse_s)
        ratio = phase.ratio
        row = [title, _short_time(dense_s), _short_time(sparse_s), factor(ratio.value)]
        rows.append(
            [*row, f"{ratio.low:.2f} to {ratio.high:.2f}", factor(phase.ceiling)]
        )
        values: dict[str, Value] = {
            "what": title,
            "dense_s": dense_s,
            "sparse_s": sparse_s,
            "ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ceiling_ratio": phase.ceiling,
        }
        data.append(values)
    weights = [("weights on disk", timing.dense_bytes, timing.sparse_bytes, "exact")]
    if timing.dense_resident and timing.sparse_resident:
        weights.append(
            (
                "weights in memory",
                timing.dense_resident,
                timing.sparse_resident,
                "measured once",
            )
        )
    for title, dense, sparse, how in weights:
        rows.append([title, size(dense), size(sparse), factor(dense / sparse), how, ""])
        data.append(
            {
                "what": title,
                "dense_bytes": dense,
                "sparse_bytes": sparse,
                "ratio": dense / sparse,
            }
        )
    caption = f"{name}: {timing_conditions(timing)}."
    return Table(
        f"Speed of {name}", caption, list(_SPEED_HEAD), rows, data=data, stem=stem
    )


def timing_conditions(timing: Timing) -> str:
    """On what it was measured, in one line."""
    threads = quantity(timing.n_threads, "thread")
    how = "seconds: medians; ratio: middle half of the rounds, both models in random order"
    what: str = timing.dtype
    if timing.runtime == "llama.cpp":
        what = f"llama.cpp (binding {timing.versions['llama-cpp-py-sync']}), {timing.weights} versus dense in F16"
    return f"{timing.machine}, {threads}, {what}; {how}"


def ceiling_words(timing: Timing) -> str:
    """Meaning of ceilings, and whether the intervals are as narrow as asked for."""
    text = "Ceiling: the speed-up if only multiply-adds (prefill) or bytes (decode, load) took time."
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
    if shape.widths != pruned.dense_widths:
        return []
    d = shape.hidden
    blocks: list[list[Projection]] = []
    widths = zip(shape.widths, pruned.widths, strict=True)
    for layout, (before, after) in zip(shape.structure.mlps, widths, strict=True):
        if layout is None:
            blocks.append([])
            continue
        inner = [
            (name, (layout.fused * before, d), (layout.fused * after, d))
            for name in layout.inner
        ]
        every = [*inner, (layout.out, (d, before), (d, after))]
        blocks.append([(name.rpartition(".")[2], old, new) for name, old, new in every])
    return blocks


def shapes_table(
    shape: ModelShape, pruned: Pruned, dtype: str, stem: str = ""
) -> Table:
    """Shapes and bytes of the whole model, its MLPs or experts, and every layer; its file has the
    exact bytes. stem: see `Table`.
    """
    blocks = block_shapes(shape, pruned)
    sizes = _block_bytes(shape, pruned, dtype)
    first_block = next(filter(None, blocks), [])
    names = [name for name, _, _ in first_block]
    mlps = sum(before for before, _ in sizes), sum(after for _, after in sizes)
    parts: list[tuple[str, tuple[int, int], list[Projection]]] = [
        ("Whole model", _model_bytes(shape, pruned, dtype), []),
        (f"All {_parts_name(shape)}", mlps, []),
        *(
            (f"Layer {i}", *layer)
            for i, layer in enumerate(zip(sizes, blocks, strict=True), 1)
        ),
    ]
    rows = []
    for part, (before, after), projections in parts:
        smaller = percent(1 - after / before) if before else ""
        row = [part, _block_size(before), _block_size(after), smaller]
        for _, old, new in projections:
            shapes = dict.fromkeys([_shape_words(old), _shape_words(new)])
            row.append(" → ".join(shapes))
        rows.append(row if projections else row + [""] * len(names))
    n = model_sizes.removed_channels(shape, pruned.kept)
    kept = f"{n:,} of {sum(shape.widths):,} inner channels removed."
    if pruned.method.removes_layers:
        n_layers = len(pruned.removed_layers)
        kept = f"{n_layers} of {len(pruned.widths)} layers removed, attention included."
    elif pruned.method.removes_experts:
        n_experts = model_sizes.removed_experts(shape, pruned.kept)
        kept = f"{n_experts:,} of {sum(shape.experts):,} experts removed."
    elif pruned.method.prunes_experts:
        n_channels = model_sizes.removed_expert_channels(shape, pruned.kept)
        kept = f"{n_channels:,} inner channels of the experts removed."
    elif n == 0 and not pruned.method.is_structured:
        kept = "Only zeros: every matrix keeps its shape and its bytes."
    about_shapes = (
        " Shapes: outputs × inputs of the MLP's projections." if names else ""
    )
    counted = "biases of the channels"
    if shape.structure.mixtures:
        dense_weights = weights_of(shape, shape.whole)
        kept += f" Before: {dense_weights}; after: {weights_of(shape, pruned.kept)}."
        counted += ", routers' rows of the experts"
    caption = (
        f"{kept}{about_shapes} Bytes: {dtype} weights and {counted}. "
        "The whole model includes attention, embeddings, norms and head."
    )
    head = ["Part", "Bytes before", "Bytes after", "Smaller by", *names]
    data = _shape_values(shape, pruned, dtype)
    return Table(
        "Shapes and bytes of this model", caption, head, rows, data=data, stem=stem
    )


def _shape_words(shape: tuple[int, int]) -> str:
    rows, columns = shape
    return f"{rows:,} × {columns:,}"


def _shape_values(
    shape: ModelShape, pruned: Pruned, dtype: str
) -> list[dict[str, Value]]:
    """Exact bytes: a row for each projection of each block, one for its MLP, then the total. layer:
    from 1.
    """
    rows = []
    part = "MLP or experts" if shape.structure.mixtures else "MLP"
    layers = zip(
        block_shapes(shape, pruned),
        _block_bytes(shape, pruned, dtype),
        strict=True,
    )
    for i, (projections, (before, after)) in enumerate(layers, 1):
        for name, old, new in projections:
            values: dict[str, Value] = {
                "layer": i,
                "part": name,
                "rows_before": old[0],
                "columns_before": old[1],
                "rows_after": new[0],
                "columns_after": new[1],
            }
            rows.append(values)
        rows.append(
            {"layer": i, "part": part, "bytes_before": before, "bytes_after": after}
        )
    before, after = _model_bytes(shape, pruned, dtype)
    rows.append(
        {
            "layer": None,
            "part": "whole model",
            "bytes_before": before,
            "bytes_after": after,
        }
    )
    return rows


def _parts_name(shape: ModelShape) -> str:
    """Name of the parts of the blocks whose bytes are counted: MLPs, experts, or both."""
    names = ["MLPs"] if any(shape.widths) else []
    if shape.structure.mixtures:
        names.append("experts")
    return and_join(names)


def _block_bytes(
    shape: ModelShape, pruned: Pruned, dtype: str
) -> list[tuple[int, int]]:
    """Bytes of each block's MLP or experts before and after."""
    itemsize = model_sizes.WEIGHT_BYTES[dtype]
    per_channel = shape.per_channel + shape.bias_per_channel
    sizes = []
    for index in range(len(shape.widths)):
        n_parameters = []
        for kept in (shape.whole, pruned.kept):
            n_of_experts = model_sizes.expert_parameters(shape, kept, index)
            n_parameters.append(kept.widths[index] * per_channel + n_of_experts)
        before, after = n_parameters
        sizes.append((before * itemsize, after * itemsize))
    return sizes


def _model_bytes(shape: ModelShape, pruned: Pruned, dtype: str) -> tuple[int, int]:
    before = model_sizes.weight_bytes(shape, shape.whole, dtype)
    after = model_sizes.weight_bytes(shape, pruned.kept, dtype)
    return before, after


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
    agree = (
        "identical"
        if proof.logit_difference == 0
        else f"within {proof.logit_difference:.1e}"
    )
    return f"logits of {proof.n_logits} passages {agree}"


def export_title(export: Export, record: Record | None) -> str:
    """ "SmolLM2 135M (built in), best 20 %"."""
    model = reference_title(export.model)
    if record is None or record.pruned is None:
        return model
    spec = record.pruned.spec
    method = record.pruned.method
    return (
        f"{model}, {spec_name(spec)} {sparsity_words(record.sparsity_permille, method)}"
    )


def upload_command(export: Export) -> str:
    """The shell command that uploads it to the hub, in its own folder; nothing is sent from here."""
    name = export.folder.rstrip("/").rpartition("/")[2]
    return shlex.join(["hf", "upload", f"YOUR-NAME/{name}", "."])


def runtime_rows(export: Export) -> list[list[str]]:
    """Where the files load, and why: what was proven, what should by its source, and what cannot.

    docs/exports.md has the versions and how each was tried.
    """
    proof = export.proof
    form = export.form
    why = f"{_logits(proof)}, {proof.n_meant} of {proof.n_verdicts} answers as by the model in memory"
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
                [
                    "transformers, vLLM, OpenVINO",
                    _CANNOT,
                    "read one width for the whole model",
                ],
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
    if export.model_type == "falcon" and (
        form == "masked" or " layers, " in export.layout
    ):
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
