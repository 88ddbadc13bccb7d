"""Tries a tokenizer.json on some text in a process of its own, with limits on memory and time:

    python -m sparsedash.engine.models.tokenizer_check TOKENIZER_JSON VOCABULARY_SIZE

Prints why it cannot be used, in one line; nothing if it can.
"""

import json
import string
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from sparsedash.schema.errors import ModelError
from sparsedash.storage.text_files import json_lines
from sparsedash.storage.trials import run_trial, trial_problem

TRIAL_BYTES = 10**9
TRIAL_S = 10
"""Limits on processor time and memory: the largest vocabulary, Gemma's, takes 2 s and 0.4 GB."""

_PASSAGES = Path(__file__).parents[2] / "catalog" / "texts" / "cloze.jsonl"
_N_PASSAGES = 40
_RUNS = (*(letter * 300 for letter in "e \n0."), string.printable, "Ünïcödé — 漢字 🦊")
_MAX_A_BYTE = 4
_PLAIN = frozenset(string.ascii_letters + string.digits)


def require_usable(
    folder: Path,
    reference: str,
    n_known: int,
) -> None:
    """Raise ModelError unless the tokenizer.json reads plain text in TRIAL_S and TRIAL_BYTES.

    n_known: tokens with an embedding. A folder without the file uses code of transformers, and is
    not tried.
    """
    file = folder / "tokenizer.json"
    config = None
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    if isinstance(config, dict) and config.get("fast_tokenizer_files"):
        # Among these transformers chooses by its version, and another one would be tried here.
        raise ModelError(
            f"The tokenizer of {reference} has several files.",
            "Keep tokenizer.json alone: delete the entry fast_tokenizer_files of tokenizer_config.json.",
        )
    if not file.is_file():
        return
    too_much = f"takes more than {TRIAL_S} s or {TRIAL_BYTES / 1e9:.0f} GB for {_N_PASSAGES} passages"
    problem = trial_problem(
        __name__,
        str(file),
        str(n_known),
        seconds=TRIAL_S,
        too_much=too_much,
    )
    if problem:
        raise ModelError(
            f"The tokenizer of {reference} {problem}.",
            "Fetch the tokenizer's files again.",
        )


def main(file: str, n_known: str) -> None:
    """Try the tokenizer in this process, and print its problem."""
    run_trial(lambda: next(_problems(file, int(n_known)), ""), TRIAL_BYTES, TRIAL_S)


def _problems(file: str, n_known: int) -> Iterator[str]:
    tokenizer = Tokenizer.from_file(file)
    # As transformers does before every text.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in (*islice(json_lines(_PASSAGES), _N_PASSAGES), *_RUNS):
        encoding = tokenizer.encode(text)
        for token in encoding.ids:
            if token >= n_known:
                yield f"gives token {token:,}, and the model knows {n_known:,}"
        if len(encoding.ids) > _MAX_A_BYTE * len(text.encode()):
            yield f"makes {len(encoding.ids):,} tokens of {len(text):,} letters"
        covered: set[int] = set()
        for start, end in encoding.offsets:
            covered.update(range(start, end))
        for place, letter in enumerate(text):
            if letter in _PLAIN and place not in covered:
                yield f"has no token for {letter!r}"
        tokenizer.decode(encoding.ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
