"""What is known of a model without its weights: where its MLPs are, and all sizes.

Found and counted from its config by `engine.models.model_inspection`.
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
    out_bias: whether the projection out of it has a bias.
    """

    inner: tuple[str, ...]
    out: str
    width: int
    fused: int = 1
    key: str = ""
    value: int = 0
    out_bias: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its projections, the one out of it last."""
        return (*self.inner, self.out)


@dataclass(frozen=True, kw_only=True)
class ModelStructure:
    """The decoder blocks of a model.

    blocks: path from the model to their list. mlps: of each block; None where it has none that can
    be pruned. list_keys: keys of the config that say a value for each block. width_problem,
    layers_problem: why stock code makes no model of narrower MLPs or of fewer layers from a changed
    config, as a clause; empty where it does. plain_cache: whether earlier tokens are remembered by
    their keys and values alone.
    """

    blocks: str
    mlps: tuple[MlpLayout | None, ...]
    list_keys: tuple[str, ...] = ()
    width_problem: str = ""
    layers_problem: str = ""
    plain_cache: bool = True

    @property
    def out_bias(self) -> bool:
        """Whether every MLP's projection out of its channels has a bias."""
        return all(layout.out_bias for layout in self.mlps if layout)

    def width_values(self, widths: Sequence[int]) -> dict[str, int | list[int]] | None:
        """What the config must say where the MLPs have these widths, by key; None where it cannot.

        widths: one a block, of which those without an MLP count for nothing.
        """
        if self.width_problem:
            return None
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


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Counts of one dense model.

    family: its model_type. hidden: width of the residual stream, d. vocabulary: tokens it can
    predict. widths: inner channels of each block, m; 0 where a block has no MLP. per_channel:
    weights that leave with one channel. bias_per_channel: biases that leave with it. n_matmul:
    weights of Linear and Conv layers, the output head included even where it shares the
    embedding's. n_head: of that head. n_parameters: everything; what is shared counts once.
    attention: width of all heads of one block together. cache_per_token: numbers in the key-value
    cache for one token, over all blocks. other_weights: of each block, weights of projections
    outside its MLP. other_parameters: of each block, parameters that are neither weights of its MLP
    nor biases of its channels. stored_bytes: of one weight in the checkpoint.
    """

    family: str
    hidden: int
    vocabulary: int
    widths: tuple[int, ...]
    per_channel: int
    bias_per_channel: int
    n_matmul: int
    n_head: int
    n_parameters: int
    attention: int
    cache_per_token: int
    other_weights: tuple[int, ...]
    other_parameters: tuple[int, ...]
    stored_bytes: int
    structure: ModelStructure

    @property
    def n_mlp(self) -> int:
        """Weights of all MLPs."""
        return sum(self.widths) * self.per_channel

    @property
    def n_block_weights(self) -> int:
        """Weights of all projections in the decoder blocks."""
        return self.n_mlp + sum(self.other_weights)

    def plain(self) -> str:
        """The counts as one JSON text."""
        return msgspec.json.encode(self).decode()
