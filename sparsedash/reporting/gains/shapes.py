"""Shapes and bytes of a sparse model before and after, per block and in total: as a table and as CSV."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from sparsedash.catalog.costs import WEIGHT_BYTES, removed_channels, weight_bytes
from sparsedash.catalog.families import FAMILIES
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, table
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.records import Pruned


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
        ["Whole model", *_bytes([_whole(shape, None, dtype)], [_whole(shape, made, dtype)]), *("" for _ in names)],
        [
            "All MLPs",
            *_bytes([block.bytes_before for block in blocks], [block.bytes_after for block in blocks]),
            *("" for _ in names),
        ],
    ]
    rows += [
        [
            f"Layer {block.number}",
            *_bytes([block.bytes_before], [block.bytes_after]),
            *(_change(before, after) for _, before, after in block.projections),
        ]
        for block in blocks
    ]
    head = ["Part", "Bytes before", "Bytes after", "Smaller by", *names]
    return table("Shapes and bytes of this model", caption(shape, made, dtype), head, rows)


def caption(shape: ModelShape, made: Pruned, dtype: str) -> str:
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


def _bytes(before: list[int], after: list[int]) -> list[str]:
    return [_size(sum(before)), _size(sum(after)), wording.percent(1 - sum(after) / sum(before))]


def _size(n_bytes: int) -> str:
    """With a decimal more than elsewhere: blocks are small, and what they lose would be rounded away."""
    return f"{n_bytes / 1e6:.1f}{wording.NBSP}MB" if 1e6 <= n_bytes < 1e9 else wording.size(n_bytes)
