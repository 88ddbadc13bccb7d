"""Where the MLPs of a model are: the decoder's blocks, and in each block the projections that are
pruned together.

Found from the config of a model, not listed by family; see `engine.models.structure`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, kw_only=True)
class MlpLayout:
    """The MLP of one block.

    inner, out: paths from the block to the projections into its channels and the one out of them.
    fused: equal parts in the rows of an inner projection (gate and up: 2). width: channels. key:
    of the config, the one that says the width, with dots between nested configs; empty where the
    code computes it. value: what the config says there of this block, in proportion to the width.
    """

    inner: tuple[str, ...]
    out: str
    width: int
    fused: int = 1
    key: str = ""
    value: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its projections, the one out of it last."""
        return (*self.inner, self.out)


@dataclass(frozen=True, kw_only=True)
class ModelStructure:
    """The decoder blocks of a model.

    blocks: path from the model to their list. mlps: of each block; None where it has none that can
    be pruned. list_keys: keys of the config that say a value for each block. kept: why some MLPs
    are left as they are, a reason each.
    """

    blocks: str
    mlps: tuple[MlpLayout | None, ...]
    list_keys: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def width_values(self, widths: Sequence[int]) -> dict[str, int | list[int]] | None:
        """What the config must say where the MLPs have these widths, by key; None where it cannot.

        widths: one a block, of which those without an MLP count for nothing.
        """
        values: dict[str, list[int]] = {}
        for layout, width in zip(self.mlps, widths, strict=True):
            if layout is None:
                continue
            value, rest = divmod(layout.value * width, layout.width)
            if rest or not layout.key:
                return None
            values.setdefault(layout.key, []).append(value)
        changes: dict[str, int | list[int]] = {}
        for key, of_blocks in values.items():
            if key in self.list_keys:
                changes[key] = of_blocks
            elif len(set(of_blocks)) == 1:
                changes[key] = of_blocks[0]
            else:
                return None
        return changes

    def plain(self) -> str:
        """The structure as one JSON text."""
        return msgspec.json.encode(self).decode()
