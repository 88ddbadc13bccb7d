"""Try a tokenizer.json on some text in a process of its own, with limits on its memory and time:

    python -m sparsedash.engine.models.tokenizer_check TOKENIZER_JSON VOCABULARY_SIZE

Prints why it cannot be used, in one line; nothing where it can.
"""

import json
import os
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sparsedash.schema.errors import ModelError
from sparsedash.storage.text_files import json_lines

TRIAL_BYTES = 10**9
TRIAL_S = 10
"""Of processor time, and of memory: the largest vocabulary of our families, Gemma's, takes 2 s and .4 GB."""

_PASSAGES = Path(__file__).parents[2] / "catalog" / "texts" / "cloze.jsonl"
_N_PASSAGES = 40
_RUNS = (*(letter * 300 for letter in "e \n0."), string.printable, "Ünïcödé — 漢字 🦊")
_MOST_A_BYTE = 4
_PLAIN = frozenset(string.ascii_letters + string.digits)


def require_usable(folder: Path, reference: str, n_known: int) -> None:
    """Raise ModelError where the folder's tokenizer.json cannot read plain text in TRIAL_S and TRIAL_BYTES.

    n_known: tokens with an embedding. A folder without the file uses code of transformers, and is not tried.
    """
    file, said = folder / "tokenizer.json", None
    with suppress(OSError, ValueError, RecursionError):
        said = json.loads((folder / "tokenizer_config.json").read_bytes())
    if isinstance(said, dict) and said.get("fast_tokenizer_files"):
        # Among these transformers chooses by its version, and another one would be tried here.
        raise ModelError(
            f"The tokenizer of {reference} has several files.",
            "Keep tokenizer.json alone: delete the entry fast_tokenizer_files of tokenizer_config.json.",
        )
    if not file.is_file():
        return
    command = [sys.executable, "-P", "-m", "sparsedash.engine.models.tokenizer_check", str(file), str(n_known)]
    # This very package, whatever folder the process was started in.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]))
    how: dict[str, Any] = {"errors": "replace", "timeout": 6 * TRIAL_S, "env": os.environ | {"PYTHONPATH": path}}
    too_much = f"takes more than {TRIAL_S} s or {TRIAL_BYTES / 1e9:.0f} GB for {_N_PASSAGES} passages"
    try:
        done = subprocess.run(command, capture_output=True, text=True, **how)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        problem = too_much
    else:
        problem = too_much if done.returncode < 0 else done.stdout.strip()
        if done.returncode > 0:
            problem = f"could not be tried: {(done.stderr.splitlines() or [''])[-1][:300]}"
    if problem:
        raise ModelError(f"The tokenizer of {reference} {problem}.", "Fetch the tokenizer's files again.")


def main(file: str, n_known: str) -> None:
    """Try the tokenizer in this process, and print its problem."""
    # Not on Windows; macOS takes no limit of the address space, and none may be raised over a lower one that is set.
    with suppress(ImportError):
        import resource

        for limit, most in ("AS", TRIAL_BYTES), ("CPU", TRIAL_S), ("CORE", 0):
            with suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    try:
        problem = next(_problems(file, int(n_known)), "")
    except MemoryError:
        os.abort()
    except BaseException as error:  # noqa: BLE001 - a panic of tokenizers is no Exception
        problem = f"could not be read: {' '.join(str(error).split())[:300]}"
    sys.stdout.write(problem)


def _problems(file: str, n_known: int) -> Iterator[str]:
    tokenizer = Tokenizer.from_file(file)
    # As transformers does before every text.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in (*islice(json_lines(_PASSAGES), _N_PASSAGES), *_RUNS):
        read = tokenizer.encode(text)
        if beyond := [number for number in read.ids if number >= n_known]:
            yield f"gives token {beyond[0]:,}, and the model knows {n_known:,}"
        if len(read.ids) > _MOST_A_BYTE * len(text.encode()):
            yield f"makes {len(read.ids):,} tokens of {len(text):,} letters"
        covered = {place for start, end in read.offsets for place in range(start, end)}
        if missing := [letter for place, letter in enumerate(text) if letter in _PLAIN and place not in covered]:
            yield f"has no token for {missing[0]!r}"
        tokenizer.decode(read.ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
