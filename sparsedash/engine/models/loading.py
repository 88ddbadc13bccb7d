"""Loads a located model and holds it: its weights, tokenizer, blocks and projections.

Safe by default: safetensors, no code from the model's repository; a repository with nothing but
`.bin` files is read with weights-only loading.
"""

import copy
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from transformers import AutoTokenizer, Cache, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.engine.models.checkpoint_reading import (
    read_config,
    read_model,
    refuse_no_numbers,
    refuse_oversized,
    refusing_tokenizer,
    weight_files,
)
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, batches_by_length
from sparsedash.engine.models.locating import Source
from sparsedash.engine.models.residency import Resident, WeightResidency
from sparsedash.engine.models.structure import (
    block_experts,
    block_mlps,
    language_config,
)
from sparsedash.engine.pruning.experts import Experts
from sparsedash.engine.pruning.surgery import Mlp, is_projection
from sparsedash.schema.errors import ModelError
from sparsedash.schema.method_settings import Scope
from sparsedash.schema.model_shape import ModelShape, ModelStructure
from sparsedash.schema.settings import Dtype

# Without this, transformers asks the hub for a converted copy of every .bin checkpoint from a
# thread of its own.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


ONE_BY_ONE = "eager"
"""How transformers computes experts where torch's product of all of them at once cannot."""


def max_length(config: Any) -> int:
    """Tokens that a model with this configuration can read at once."""
    language = language_config(config)
    for name in ("max_position_embeddings", "n_positions"):
        if limit := getattr(language, name, None):
            return int(limit)
    return 2048


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A dense model ready to run.

    shape: its counts and structure. warnings: of how it was read. residency: of its weights.
    """

    identity: str
    dtype: Dtype
    model: PreTrainedModel
    tokenizer: Tokenizer
    shape: ModelShape
    warnings: tuple[str, ...] = ()
    residency: WeightResidency = field(default_factory=Resident)

    @property
    def blocks(self) -> list[torch.nn.Module]:
        """The decoder blocks, in the order they run."""
        return list(self.model.get_submodule(self.structure.blocks).children())

    @property
    def structure(self) -> ModelStructure:
        """Structure of the model: the places of its MLPs."""
        return self.shape.structure

    @property
    def has_plain_cache(self) -> bool:
        """Whether earlier tokens are remembered by keys and values alone."""
        return self.structure.plain_cache

    @property
    def cache_per_token(self) -> int:
        """Bytes of the keys and values of a token, in all blocks."""
        return int(self.shape.cache_per_token * self.model.dtype.itemsize)

    def batches(
        self, sequences: Sequence[Sequence[int]], n_tokens: int
    ) -> list[tuple[list[int], Batch]]:
        """Positions of sequences and their batch; see `batches_by_length`."""
        pad = self.tokenizer.pad_token_id or 0
        return batches_by_length(
            sequences,
            n_tokens,
            pad,
            self.model.device,
        )

    def walk(
        self,
        batches: Sequence[Batch],
        caches: Sequence[Cache | None] = (),
    ) -> BlockWalk:
        """A walk of these batches through the decoder blocks; see `BlockWalk`."""
        return BlockWalk(
            self.model.base_model,
            self.blocks,
            batches,
            caches,
        )

    @property
    def mlps(self) -> list[Mlp]:
        """The MLP of every decoder block."""
        return block_mlps(self.model, self.structure)

    @property
    def experts(self) -> dict[int, Experts]:
        """The experts of the blocks that are mixtures, by block."""
        return block_experts(self.model, self.structure)

    def projections(self, scope: Scope) -> list[dict[str, torch.nn.Linear]]:
        """The projections (Linear or Conv1D) of every decoder block, by name."""
        projections = []
        for block, layout in zip(self.blocks, self.structure.mlps, strict=True):
            modules: dict[str, Any] = dict(block.named_modules())
            if scope == "decoder":
                names = [
                    name for name, module in modules.items() if is_projection(module)
                ]
            else:
                names = list(layout.paths) if layout else []
            projections.append({name: modules[name] for name in names})
        return projections

    @cached_property
    def max_length(self) -> int:
        """Tokens that the model can read at once."""
        return max_length(self.model.config)

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a text, of those that have an embedding."""
        ids = self.model.generation_config.eos_token_id
        ids = ids if isinstance(ids, list) else [ids]
        return [
            token
            for token in ids
            if isinstance(token, int) and 0 <= token < self._n_embedded
        ]

    @property
    def _n_embedded(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text: with tokens that the tokenizer prepends, without appended ones."""
        prefix, ids = self.prefix_and_ids(text)
        return prefix + ids

    def prefix_and_ids(self, text: str) -> tuple[list[int], list[int]]:
        """The same ids in two parts: tokens that begin every text, and the text's own."""
        special = self.adds_special_tokens(text)
        n_before, n_after = self._n_special if special else (1, 0)
        ids = self._ids(text, special)
        return ids[:n_before], ids[n_before : len(ids) - n_after]

    def windows(
        self,
        ids: list[int],
        length: int,
    ) -> list[list[int]]:
        """A text's token ids in pieces of this length, each beginning as every text does."""
        prefix, _ = self.prefix_and_ids("")
        if ids[: len(prefix)] == prefix:
            ids = ids[len(prefix) :]
        step = max(1, length - len(prefix))
        return [
            prefix + ids[start : start + step]
            for start in range(0, max(1, len(ids)), step)
        ]

    def adds_special_tokens(self, text: str) -> bool:
        """True unless the text begins with the beginning-of-text token itself."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _ids(self, text: str, special: bool) -> list[int]:
        """Raises ModelError if the tokenizer fails, or for tokens without an embedding."""
        problem = f"The model's tokenizer cannot read {text[:40]!r}"
        advice = "Use the one that it was trained with."
        with refusing_tokenizer(problem, advice):
            ids: list[int] = self.tokenizer(text, add_special_tokens=special).input_ids
        if ids and max(ids) >= self._n_embedded:
            raise ModelError(
                f"{problem}: token {max(ids):,} is none of its {self._n_embedded:,}.",
                advice,
            )
        return ids

    @cached_property
    def _n_special(self) -> tuple[int, int]:
        """Special tokens that the tokenizer prepends and appends to any text."""
        plain = self._ids("a", special=False)
        complete = self._ids("a", special=True)
        for n_before in range(len(complete)):
            if plain and complete[n_before : n_before + len(plain)] == plain:
                return n_before, len(complete) - n_before - len(plain)
        return 0, 0


ReadModel = Callable[[Source, Dtype], LoadedModel]


class ModelCache:
    """Keeps the model loaded last for the next job.

    n_loaded: while 1, peak memory is that of one model. in_memory: of a model that the caller
    holds, the only one in this cache.
    """

    def __init__(
        self,
        in_memory: Source | None = None,
        kept: LoadedModel | None = None,
    ) -> None:
        self.in_memory = in_memory
        self._kept = kept
        self._source: Source | None = None
        self.n_loaded = 0

    def take(
        self,
        source: Source,
        dtype: Dtype,
        stream: ReadModel | None = None,
    ) -> LoadedModel:
        """The model kept if it is the same, else a new one. stream: reads it streamed."""
        kept = self._kept
        request = (source.identity, dtype, stream is not None)
        is_current = self._source is None or self._source.is_unchanged
        is_same = (
            kept and (kept.identity, kept.dtype, kept.residency.streamed) == request
        )
        if kept is not None and is_current and is_same:
            return kept
        # Free the old one first: two models at once may not fit.
        kept = self._kept = None
        gc.collect()
        loaded = (stream or load_model)(source, dtype)
        source.require_unchanged()
        self._kept = loaded
        self._source = source
        self.n_loaded += 1
        return loaded

    def clear(self) -> None:
        """Keep none: the caller is about to change the last one."""
        self._kept = None

    def put(self, loaded: LoadedModel) -> None:
        """Keep this model, which is still in use elsewhere."""
        self._kept = loaded


def load_model(source: Source, dtype: Dtype) -> LoadedModel:
    """The model with its weights in memory, on the GPU if there is one. Raises ModelError."""
    loaded = read_whole(source, dtype)
    refuse_no_numbers(source.reference, loaded.model)
    if torch.cuda.is_available():
        loaded.model.to("cuda")
    return loaded


def read_whole(source: Source, dtype: Dtype) -> LoadedModel:
    """The model with its tokenizer; weights of this type stay mapped, and may be NaN.

    Raises ModelError.
    """
    folder = source.folder
    reference = source.reference
    files = weight_files(folder, reference)
    is_safe = files[0].suffix == ".safetensors"
    warnings: tuple[str, ...] = ()
    if not is_safe:
        warnings = (
            f"{reference} has no safetensors; its .bin files were read as plain weights, which is slower.",
        )
    config = read_config(folder, reference)
    n_bytes = sum(file.stat().st_size for file in files)
    refuse_oversized(
        reference,
        config,
        n_bytes,
        "safetensors" if is_safe else "bin",
    )
    model = read_model(
        reference,
        config,
        getattr(torch, dtype),
        pretrained_model_name_or_path=folder,
        use_safetensors=is_safe,
        disable_mmap=False,
    )
    advice = "The folder needs the tokenizer's files as well as the weights."
    with refusing_tokenizer(f"The tokenizer of {reference} could not be read", advice):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return loaded_model(
        source,
        dtype,
        model,
        tokenizer,
        warnings,
    )


def loaded_model(
    source: Source,
    dtype: Dtype,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    warnings: tuple[str, ...] = (),
) -> LoadedModel:
    """This model, in evaluation mode and without gradients, with what the engine needs of it."""
    if (tokenizer.pad_token_id or 0) >= model.get_input_embeddings().weight.shape[0]:
        # Some models add one without an embedding. Any token does: what it stands for is masked.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = None
    model.eval().requires_grad_(False)
    if has_ragged_experts(model, model.dtype.itemsize):
        model.set_experts_implementation(ONE_BY_ONE)
    # A checkpoint may have a head of its own that its config denies.
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedModel(
        identity=source.identity,
        dtype=dtype,
        model=model,
        tokenizer=tokenizer,
        shape=replace(source.shape, n_parameters=n_parameters),
        warnings=warnings,
    )


def has_ragged_experts(model: PreTrainedModel, itemsize: int) -> bool:
    """Whether torch's product of all experts at once refuses weights of so many bytes each.

    It takes rows of multiples of 16 bytes.
    """
    for module in model.modules():
        if hasattr(module, "has_gate") and hasattr(module, "down_proj"):
            _, *rows = module.down_proj.shape
            if any(row * itemsize % 16 for row in rows):
                return True
    return False
