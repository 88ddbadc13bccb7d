"""Tiny GGUF files with something changed: `python -m tests.engine.models.gguf_fuzz 300` says what becomes of each.

None may run as if a key or tensor were not there: what is not refused computes what llama.cpp computes.
"""

import contextlib
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import constants

from sparsedash.catalog.gguf_names import ARCHITECTURES, HARMLESS, class_of_key, general_name
from sparsedash.engine.export.reloaded_gguf import LlamaCppModel
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store
from tests.engine.tiny_gguf import FAMILIES, write_tiny_gguf

Change = tuple[str, Path]


def changed_files(count: int, folder: Path, seed: int = 31) -> Iterator[Change]:
    """What was changed, and the file."""
    rng = random.Random(seed)
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        file = folder / f"changed-{number}.gguf"
        said = _key(rng, family, file) if rng.random() < 0.5 else _tensor(rng, family, file)
        if rng.random() < 0.15:
            said += _bytes(rng, file)
        yield f"{family}: {said}", file


def outcome(file: Path, store: Store, ids: list[int]) -> str:
    """refused, the same, or what differs."""
    try:
        loaded = load_model(locate_model(str(file), store), "float32")
    except ModelError:
        return "refused"
    ours = loaded.model(torch.tensor([ids])).logits[0].numpy()
    try:
        with _quiet():
            theirs = LlamaCppModel(str(file), 64, 1).logits(ids)
    except SystemExit:
        return "it runs, and llama.cpp refuses it"
    differs = float(np.abs(ours - theirs).max())
    return "the same" if differs < 0.02 else f"it runs, and differs by {differs:.2g}"


def _key(rng: random.Random, family: str, file: Path) -> str:
    """A key more, a key less, or another value of one."""
    every = [value for value in _all_keys() if not value.startswith(("clip.", "adapter."))]
    names = [*every, *(f"{{arch}}.{key}" for key in ARCHITECTURES[family].keys), *HARMLESS, "{arch}.odd", "odd.key"]
    name = rng.choice(names).format(arch="#", id=0, name="x", dense="dense_2").replace(".#", ".0")
    if name.startswith(("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "general.alignment")):
        name = "#.odd"
    value = rng.choice([0, 1, 2, 8, 0.5, 8.0, True, False, "linear", "yarn", "none", "odd", [1, 2], [0.5]])
    if class_of_key(name.replace("#", family), family) == "harmless":
        # llama.cpp refuses some of them in another type.
        counts = name.endswith(("_id", "file_type", "version", "count", "_length", "head_count_kv"))
        value = True if "finetuned" in name else 1 if counts else "odd"
    elif name.startswith("#.rope.scaling.") and type(value) is int:
        value = float(value)
    if rng.random() < 0.15:
        without = rng.choice([f"{family}.{key}" for key in ARCHITECTURES[family].keys])
        write_tiny_gguf(file, family=family, without=without)
        return f"without {without}"
    write_tiny_gguf(file, family=family, keys={name: value})
    return f"{name} = {value}"


def _tensor(rng: random.Random, family: str, file: Path) -> str:
    """A tensor more, or one under another name."""
    stems = sorted({name.format(bid=rng.randrange(4), xid=0) for name in constants.TENSOR_NAMES.values()})
    own = [name.replace("#", str(rng.randrange(4))) for name in ARCHITECTURES[family].tensors]
    kind = rng.choice(["weight", "bias", "scale"])
    name = rng.choice([rng.choice(own), f"{rng.choice(stems)}.{kind}", f"blk.0.odd.{kind}", "outputs.weight"])
    size = rng.choice([(4,), (32,), (8,), (32, 32), (96,)])
    values = np.random.default_rng(rng.randrange(1000)).uniform(0.5, 2.0, size).astype(np.float32)
    changes: dict[str, Any] = {}
    if general_name(name) in ("blk.#.attn_q.bias", "blk.#.attn_output.bias") and family == "llama":
        values = values if size == (32,) else np.ones(32, np.float32)
    if rng.random() < 0.3:
        without = rng.choice(own)
        write_tiny_gguf(file, family=family, without=without, tensors={name: values}, **changes)
        return f"{name} {size} for {without}"
    write_tiny_gguf(file, family=family, tensors={name: values}, **changes)
    return f"{name} {size} more"


def _bytes(rng: random.Random, file: Path) -> str:
    """Cut off, or another offset for a tensor."""
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        file.write_bytes(data[: rng.randrange(len(data))])
        return ", cut off"
    at = data.rindex(b"ffn_norm.weight" if b"ffn_norm.weight" in data else b"ffn_up.weight")
    at = data.index((1).to_bytes(4, "little"), at) if b"ffn_norm.weight" in data else at
    offset = rng.choice([2**64 - 32, 2**63, 64, len(data)])
    data[at + 16 : at + 24] = offset.to_bytes(8, "little")
    file.write_bytes(data)
    return f", an offset of {offset}"


def _all_keys(group: type = constants.Keys) -> Iterator[str]:
    for name, value in vars(group).items():
        if isinstance(value, type):
            yield from _all_keys(value)
        elif not name.startswith("_"):
            yield value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp writes to the process's own stderr."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)


def main(count: int) -> None:
    """Try so many, and print those that are neither refused nor the same."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder) / "data")) as store:
        for said, file in changed_files(count, Path(folder)):
            became = outcome(file, store, [(7 * i) % 300 + 1 for i in range(60)])
            found[became if became in ("refused", "the same") else "other"] += 1
            if became not in ("refused", "the same"):
                print(f"{said}: {became}")
    print(dict(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
