"""Facts known of a model without its weights: the places of its MLPs, and all sizes.

Found and counted from its config by `engine.models.model_inspection`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

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
class ExpertsLayout:
    """The experts of one block, and the router that chooses some of them for each token.

    path, router: paths from the block to their module and to the one with a row for each expert.
    tensors: by their names in the block, the axis that has an entry for each expert. n: experts.
    width: inner channels of one. n_chosen: for each token. n_groups: equal parts of which the
    router first chooses some. key: of the config, the one that says their number. inner: by its
    name, the axis of each tensor with entries for each inner channel. width_key: of the config, the
    one that says the width of the experts, and of the shared expert beside them where that has no
    key of its own; empty where none does. width_value: what it says, in proportion to the width.
    shared: that shared expert.
    """

    path: str
    router: str
    tensors: dict[str, int]
    n: int
    width: int
    n_chosen: int
    n_groups: int
    key: str
    inner: dict[str, int] = field(default_factory=dict)
    width_key: str = ""
    width_value: int = 0
    shared: MlpLayout | None = None

    def shared_width(self, width: int) -> int:
        """Channels of the shared expert where the others have so many."""
        return self.shared.width * width // self.width if self.shared else 0


@dataclass(frozen=True, kw_only=True)
class KeptParts:
    """Parts kept of a model.

    widths: inner channels of each block's MLP; 0 where there is none. removed_layers: blocks that
    are gone as a whole, ascending. experts: of each block; empty where all of them stay.
    expert_widths: inner channels of each expert, by block; empty where all of them stay.
    """

    widths: tuple[int, ...]
    removed_layers: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()
    expert_widths: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelStructure:
    """The decoder blocks of a model.

    blocks: path from the model to their list. mlps: of each block; None where it has none that can
    be pruned. experts: of each block; None where it is no mixture. list_keys: keys of the config
    that say a value for each block. beside_widths: what the config must say wherever it says a
    width; None where that is the width again. mlps_problem: why no channels can be removed, as a
    clause; empty where they can, or where experts are in place of all MLPs. width_problem,
    layers_problem, experts_problem, expert_width_problem: why stock code makes no model of narrower
    MLPs, of fewer layers, of fewer or of narrower experts from a changed config, as a clause; empty
    where it does. plain_cache:
    whether earlier tokens are remembered by their keys and values alone.
    """

    blocks: str
    mlps: tuple[MlpLayout | None, ...]
    experts: tuple[ExpertsLayout | None, ...] = ()
    list_keys: tuple[str, ...] = ()
    beside_widths: dict[str, bool | None] = field(default_factory=dict)
    mlps_problem: str = ""
    width_problem: str = ""
    layers_problem: str = ""
    experts_problem: str = ""
    expert_width_problem: str = ""
    plain_cache: bool = True

    @property
    def mixtures(self) -> dict[int, ExpertsLayout]:
        """The experts of those blocks that have some, by block."""
        return {index: layout for index, layout in enumerate(self.experts) if layout}

    def without_mlps(self, blocks: Collection[int] | None = None) -> "ModelStructure":
        """The structure with no MLP in these blocks; None: in any."""
        if blocks is None:
            blocks = range(len(self.mlps))
        mlps = [
            None if index in blocks else layout
            for index, layout in enumerate(self.mlps)
        ]
        return replace(self, mlps=tuple(mlps))

    @property
    def out_bias(self) -> bool:
        """Whether every MLP's projection out of its channels has a bias."""
        return any(self.mlps) and all(layout.out_bias for layout in self.mlps if layout)

    def width_values(self, widths: Sequence[int]) -> dict[str, int | list[int]] | None:
        """Config values for MLPs of these widths, by key; None if the config cannot say them.

        widths: one a block, of which those without an MLP count for nothing.
        """
        if self.width_problem:
            return None
        values: dict[str, list[int]] = {}
        for layout, width in zip(self.mlps, widths, strict=True):
            if layout is None:
                continue
            value, remainder = divmod(layout.value * width, layout.width)
            if remainder or not layout.key:
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
        if self.beside_widths:
            (value_of_all,) = changes.values()
            for key, fixed in self.beside_widths.items():
                changes[key] = value_of_all if fixed is None else fixed
        return changes

    def experts_values(self, kept: KeptParts) -> dict[str, int]:
        """Config values for the experts that are kept, by key."""
        values = {}
        for index, layout in self.mixtures.items():
            if kept.experts:
                values[layout.key] = kept.experts[index]
            if kept.expert_widths:
                value = layout.width_value * kept.expert_widths[index] // layout.width
                values[layout.width_key] = value
        return values

    def file_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Widths of the MLPs in files for stock code, where those that one key says are as wide as
        the widest of them; those of dense where it cannot say them.

        widths: kept ones, one a block.
        """
        values: dict[str, int] = {}
        for layout, width in zip(self.mlps, widths, strict=True):
            if layout:
                value = -(-layout.value * width // layout.width)
                values[layout.key] = max(value, values.get(layout.key, 0))
        dense = tuple(layout.width if layout else 0 for layout in self.mlps)
        filled = []
        for layout, width in zip(self.mlps, widths, strict=True):
            if layout and layout.key and layout.key not in self.list_keys:
                width = layout.width * values[layout.key] // layout.value
            filled.append(width)
        return dense if self.width_values(filled) is None else tuple(filled)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Counts of one dense model.

    family: its model_type. hidden: width of the residual stream, d. vocabulary: tokens it can
    predict. widths: inner channels of each block, m; 0 where a block has no MLP. per_channel:
    weights that leave with one channel. bias_per_channel: biases that leave with it. per_expert:
    parameters that leave with one expert, its row of the router included; per_expert_channel: with
    one inner channel of it; per_shared_channel: with one of a shared expert that is as narrow.
    n_matmul: weights that a token is multiplied with: of Linear and Conv layers, the output head
    included even where it shares the embedding's, and of the experts that are chosen for it.
    n_head: of that head. n_parameters: everything; what is shared counts once. attention: width of
    all heads of one block together. cache_per_token: numbers in the key-value cache for one token,
    over all blocks.
    other_weights: of each block, weights of projections outside its MLP, experts included.
    other_parameters: of each block, parameters that are neither weights of its MLP or of
    projections, nor biases of its channels. stored_bytes: of one weight in the checkpoint.
    n_beside: parameters outside the language model, as of a vision tower, which stay as they are.
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
    per_expert: int = 0
    per_expert_channel: int = 0
    per_shared_channel: int = 0
    n_beside: int = 0

    @property
    def whole(self) -> KeptParts:
        """All of it."""
        return KeptParts(widths=self.widths)

    @property
    def experts(self) -> tuple[int, ...]:
        """Experts of each block; 0 where it is no mixture."""
        mixtures = self.structure.mixtures
        return tuple(
            mixtures[index].n if index in mixtures else 0
            for index in range(len(self.widths))
        )

    def dense_expert_widths(self, kept: KeptParts) -> tuple[int, ...]:
        """Inner channels of each expert, by block, 0 where it is no mixture; none where all stay."""
        if not kept.expert_widths:
            return ()
        mixtures = self.structure.mixtures
        return tuple(
            mixtures[index].width if index in mixtures else 0
            for index in range(len(self.widths))
        )

    @property
    def n_idle(self) -> int:
        """Parameters of the experts that are not chosen for a token."""
        n_idle = sum(
            layout.n - layout.n_chosen for layout in self.structure.mixtures.values()
        )
        return n_idle * self.per_expert

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
