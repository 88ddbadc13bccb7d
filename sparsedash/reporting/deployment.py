"""What a sparse model brings in use: speed, bytes, shapes, and the runtimes that load its files."""

import csv
import io
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sparsedash.catalog.families import FAMILIES
from sparsedash.catalog.model_shape import (
    WEIGHT_BYTES,
    ModelShape,
    Workload,
    prefill_ceiling,
    removed_channels,
    weight_bytes,
)
from sparsedash.catalog.presets import method_name
from sparsedash.reporting import wording
from sparsedash.reporting.charts.gain_chart import Gain, Gained
from sparsedash.reporting.html import Table, table
from sparsedash.reporting.run_results import Judged, RunResults
from sparsedash.schema.export_settings import Export, Proof
from sparsedash.schema.pair_records import Phase, TimedPhase, Timing, TimingSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.settings import Dtype
from sparsedash.service.backend import Backend
from sparsedash.stats.mean_intervals import median_s

GainName = Literal["reading", "writing", "bytes", "multiply-adds"]
"""Speed of reading a prompt and of writing, as measured; and what is exact from widths."""

GAIN_TITLES: dict[GainName, str] = {
    "reading": "Measured speed-up, reading a prompt",
    "writing": "Measured speed-up, writing",
    "bytes": "Times fewer bytes of weights",
    "multiply-adds": "Times fewer multiply-adds, reading 512 tokens",
}
GAIN_PHASES: dict[GainName, Phase] = {"reading": "prefill", "writing": "decode"}
PREFILL_LOAD = Workload(batch=1, n_tokens=512)


@dataclass(frozen=True, kw_only=True)
class Gains:
    """What is known of a run's models on one axis.

    gained: for the chart. untimed: those that could be timed and were not. masked: those that only have zeros, where
    the axis is one of speed. unknown: those whose model's sizes are not noted.
    """

    gained: Gained
    untimed: Sequence[Judged] = ()
    masked: Sequence[Judged] = ()
    unknown: Sequence[Judged] = ()


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How models are timed. dtype: None as the run has it. n_threads: None as many as torch takes by itself."""

    dtype: Dtype | None = None
    n_threads: int | None = None


def run_gains(backend: Backend, found: RunResults, name: GainName, timed: TimingOptions) -> Gains:
    """What the models of this run win on one axis."""
    return _timed_gains(backend, found, name, timed) if name in GAIN_PHASES else _exact_gains(backend, found, name)


def timing_request(found: RunResults, sparse: str, timed: TimingOptions) -> TimingSettings:
    """What is asked for where a sparse model's speed is to be shown. sparse: its record's key."""
    return TimingSettings(dense=found.dense.key, sparse=sparse, dtype=timed.dtype, n_threads=timed.n_threads)


def _timed_gains(backend: Backend, found: RunResults, name: GainName, timed: TimingOptions) -> Gains:
    known: dict[str, Gain] = {}
    untimed: list[Judged] = []
    masked: list[Judged] = []
    for each in found.judged:
        request = timing_request(found, each.record.key, timed)
        timing = backend.timing(request.key()) if each.method.takes_channels else None
        phase = timing.timed(GAIN_PHASES[name]) if timing else None
        if phase is not None:
            ratio = phase.ratio
            words = (
                f"{wording.factor(ratio.value)} as fast, 95 % interval {ratio.low:.2f} to {ratio.high:.2f}; "
                f"at most {wording.factor(phase.ceiling)}"
            )
            known[each.record.key] = Gain(value=ratio.value, low=ratio.low, high=ratio.high, words=words)
        else:
            (untimed if each.method.takes_channels else masked).append(each)
    return Gains(gained=Gained(name=GAIN_TITLES[name], gains=known), untimed=untimed, masked=masked)


def _exact_gains(backend: Backend, found: RunResults, name: GainName) -> Gains:
    known: dict[str, Gain] = {}
    unknown: list[Judged] = []
    shape = backend.model_shape(found.dense.model_identity)
    for each in found.judged:
        assert each.record.pruned is not None
        widths = each.record.pruned.widths
        if shape is None or shape.widths != each.record.pruned.dense_widths:
            unknown.append(each)
            continue
        if name == "bytes":
            bytes_of = [weight_bytes(shape, w, found.dense.dtype) for w in (shape.widths, widths)]
            value, words = bytes_of[0] / bytes_of[1], " → ".join(wording.size(n) for n in bytes_of)
        else:
            value = prefill_ceiling(shape, widths, PREFILL_LOAD)
            words = f"{wording.factor(value)} fewer multiply-adds"
        known[each.record.key] = Gain(value=value, low=value, high=value, words=words)
    return Gains(gained=Gained(name=GAIN_TITLES[name], gains=known), unknown=unknown)


SPEED_HEAD = ("What", "Dense", "Sparse", "Ratio", "95 % interval", "Ceiling")


def speed_rows(timing: Timing) -> list[list[str]]:
    """One row for each phase, one for the bytes of the weights, one for the memory that they take where it is known."""
    timed = [_row(timing, phase) for phase in timing.phases]
    found = [*timed, _bytes_row("weights on disk", timing.dense_bytes, timing.sparse_bytes, "exact")]
    if timing.dense_resident and timing.sparse_resident:
        found.append(_bytes_row("weights in memory", timing.dense_resident, timing.sparse_resident, "measured once"))
    return found


def timing_conditions(timing: Timing) -> str:
    """On what it was measured, in one line."""
    threads = f"{timing.n_threads} {wording.plural(timing.n_threads, 'thread')}"
    how = "seconds: medians; ratio: the middle half of the rounds, in which both went in random order"
    return f"{timing.machine}, {threads}, {timing.dtype}; {how}"


def ceiling_words(timing: Timing) -> str:
    """What ceilings are, and what was not measured sharply."""
    text = (
        "Ceiling: the speed-up if multiply-adds (prefill) or bytes (decode, load) were all that takes time. Loading is "
        "from the system's cache."
    )
    return text if timing.precise else f"{text} Some intervals stayed wider than asked for when the time was over."


def _row(timing: Timing, phase: TimedPhase) -> list[str]:
    what = {
        "prefill": f"prefill, {phase.batch} × {timing.n_prompt} tokens",
        "decode": f"decode, {phase.batch} × {timing.n_decode} after {timing.n_prompt}",
        "load": "load",
    }[phase.phase]
    ratio = phase.ratio
    return [
        what,
        short_time(median_s(phase.dense_s)),
        short_time(median_s(phase.sparse_s)),
        wording.factor(ratio.value),
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        wording.factor(phase.ceiling),
    ]


def _bytes_row(what: str, dense: int, sparse: int, known: str) -> list[str]:
    return [what, wording.size(dense), wording.size(sparse), wording.factor(dense / sparse), known, ""]


def short_time(value: float) -> str:
    """A short time with three figures: 0.0123 -> "12.3 ms"."""
    return f"{value:.3g}{wording.NBSP}s" if value >= 1 else f"{1000 * value:.3g}{wording.NBSP}ms"


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """One block's MLP. projections: name, rows and columns before, rows and columns after; of out-features x inputs."""

    number: int
    projections: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]
    bytes_before: int
    bytes_after: int


def block_shapes(shape: ModelShape, made: Pruned, dtype: str) -> list[BlockShape]:
    """Every block before and after; empty where the sizes are another model's."""
    if shape.widths != made.dense_widths or shape.family not in FAMILIES:
        return []
    each = (shape.per_channel + shape.bias_per_channel) * WEIGHT_BYTES[dtype]
    return [
        BlockShape(
            number=i + 1,
            projections=tuple(_projections(shape, before, after)),
            bytes_before=before * each,
            bytes_after=after * each,
        )
        for i, (before, after) in enumerate(zip(shape.widths, made.widths, strict=True))
    ]


def shapes_table(shape: ModelShape, made: Pruned, dtype: str) -> Table:
    """The table of the page."""
    blocks = block_shapes(shape, made, dtype)
    names = [name for name, _, _ in blocks[0].projections]
    rows = [
        ["Whole model", *_byte_cells([_whole(shape, None, dtype)], [_whole(shape, made, dtype)]), *("" for _ in names)],
        [
            "All MLPs",
            *_byte_cells([block.bytes_before for block in blocks], [block.bytes_after for block in blocks]),
            *("" for _ in names),
        ],
    ]
    rows += [
        [
            f"Layer {block.number}",
            *_byte_cells([block.bytes_before], [block.bytes_after]),
            *(_change(before, after) for _, before, after in block.projections),
        ]
        for block in blocks
    ]
    head = ["Part", "Bytes before", "Bytes after", "Smaller by", *names]
    return table("Shapes and bytes of this model", shapes_caption(shape, made, dtype), head, rows)


def shapes_caption(shape: ModelShape, made: Pruned, dtype: str) -> str:
    """What the table counts."""
    n = removed_channels(shape, made.widths)
    kept = (
        "Only zeros were set: every matrix keeps its shape and its bytes."
        if n == 0 and not made.method.takes_channels
        else f"{n:,} of {sum(shape.widths):,} inner channels are gone."
    )
    return (
        f"{kept} Shapes are rows × columns (outputs × inputs) of the MLP's projections, bytes those of {dtype} weights "
        "with the biases that leave with a channel. The whole model has attention, embeddings, norms and head besides."
    )


def shapes_csv(shape: ModelShape, made: Pruned, dtype: str) -> bytes:
    """The same, a line for each projection of each block, then the totals."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        [
            *("layer", "projection", "rows_before", "columns_before", "rows_after", "columns_after"),
            *("bytes_before", "bytes_after"),
        ]
    )
    for block in block_shapes(shape, made, dtype):
        for name, before, after in block.projections:
            lines.writerow([block.number, name, *before, *after, "", ""])
        lines.writerow([block.number, "MLP", "", "", "", "", block.bytes_before, block.bytes_after])
    whole = [_whole(shape, None, dtype), _whole(shape, made, dtype)]
    lines.writerow(["all", "whole model", "", "", "", "", *whole])
    return text.getvalue().encode()


def _projections(shape: ModelShape, before: int, after: int) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    family = FAMILIES[shape.family]
    d = shape.hidden
    for name in family.inner:
        yield name.rpartition(".")[2], (family.fused * before, d), (family.fused * after, d)
    yield family.out.rpartition(".")[2], (d, before), (d, after)


def _whole(shape: ModelShape, made: Pruned | None, dtype: str) -> int:
    return weight_bytes(shape, made.widths if made else shape.widths, dtype)


def _change(before: tuple[int, int], after: tuple[int, int]) -> str:
    first = f"{before[0]:,} × {before[1]:,}"
    return first if before == after else f"{first} → {after[0]:,} × {after[1]:,}"


def _byte_cells(before: list[int], after: list[int]) -> list[str]:
    return [_size(sum(before)), _size(sum(after)), wording.percent(1 - sum(after) / sum(before))]


def _size(n_bytes: int) -> str:
    """With a decimal more than elsewhere: blocks are small, and what they lose would be rounded away."""
    return f"{n_bytes / 1e6:.1f}{wording.NBSP}MB" if 1e6 <= n_bytes < 1e9 else wording.size(n_bytes)


FORM_NAMES = {
    "uniform": "one narrower width",
    "padded": "filled up with zeros",
    "masked": "dense shape, zeros in it",
    "gguf": "a file for llama.cpp",
}

Loads = Literal["proven here", "should load", "cannot"]


@dataclass(frozen=True, kw_only=True)
class RuntimeRow:
    """Whether one runtime loads the files. why: the proof, the source, or what stands against it."""

    runtime: str
    loads: Loads
    why: str


def proof_words(proof: Proof) -> str:
    """What a fresh process has seen, in a sentence."""
    return (
        f"Proven by {proof.runtime} {proof.version} in a fresh process: the logits of {proof.n_logits} passages differ "
        f"by at most {proof.logit_difference:.1e}, {proof.n_meant} of {proof.n_verdicts} passages are answered as by "
        f"the model in memory, {proof.n_run} as in the run."
    )


def export_title(export: Export, record: Record | None) -> str:
    """ "SmolLM2 135M (built in), best 20 %"."""
    model = wording.reference_title(export.model)
    if record is None or record.pruned is None:
        return model
    return f"{model}, {method_name(record.pruned.method)} {wording.sparsity_percent(record.sparsity_permille)}"


def upload_command(export: Export) -> str:
    """What a visitor types in a shell of their own; nothing is sent from here."""
    name = export.folder.rstrip("/").rpartition("/")[2]
    return shlex.join(["hf", "upload", f"YOUR-NAME/{name}", export.folder])


def runtime_rows(export: Export) -> list[RuntimeRow]:
    """Where the files load: what was proven, what should by its source, and what cannot."""
    proof = export.proof
    why = f"logits within {proof.logit_difference:.1e}, {proof.n_meant} of {proof.n_verdicts} answers as meant"
    proven = RuntimeRow(runtime=f"{export.proof.runtime} {export.proof.version}", loads="proven here", why=why)
    return [proven, *(_gguf_rows(export) if export.form == "gguf" else _folder_rows(export))]


def _gguf_rows(export: Export) -> list[RuntimeRow]:
    if export.layout.startswith("a width for each block"):
        why = "their readers take one width for the whole model"
        return [
            RuntimeRow(runtime="Ollama, LM Studio", loads="should load", why="they run llama.cpp; not tried here"),
            RuntimeRow(runtime="transformers, vLLM", loads="cannot", why=why),
        ]
    return [
        RuntimeRow(runtime="Ollama, LM Studio", loads="should load", why="they run llama.cpp; not tried here"),
        RuntimeRow(
            runtime="transformers", loads="should load", why="its GGUF reader knows the base's architecture; not tried"
        ),
    ]


def _folder_rows(export: Export) -> list[RuntimeRow]:
    vllm = "the config is the base's own, and vLLM's model code reads the width from it; by its source, not tried here"
    if export.form == "masked":
        vllm = "the files have the base's own shape; by its source, not tried here"
    return [
        RuntimeRow(runtime="vLLM", loads="should load", why=vllm),
        RuntimeRow(runtime="llama.cpp", loads="cannot", why="it reads GGUF files; export the form GGUF for it"),
    ]
