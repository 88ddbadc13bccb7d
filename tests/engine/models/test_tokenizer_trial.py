"""A hostile tokenizer.json is refused in words, by a process that it can do no harm to."""

import json

import pytest

from sparsedash.engine.models import tokenizer_check
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import ModelError
from sparsedash.storage import trials
from tests.engine.tiny import VOCABULARY, save_tiny


def replaced(n, by, pattern):
    rule = {
        "type": "Replace",
        "pattern": pattern,
        "content": by,
    }
    return {"normalizer": {"type": "Sequence", "normalizers": [rule] * n}}


def split_by(pattern):
    rule = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    bytes_too = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [rule, bytes_too]}}


def starting_with(*ids):
    special = {
        "id": "<|end|>",
        "ids": list(ids),
        "tokens": ["<|end|>"] * len(ids),
    }
    parts = [
        {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    template = {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": parts,
        "special_tokens": {"<|end|>": special},
    }
    return {"post_processor": template}


def with_ids(of):
    """Another vocabulary: of each letter, its own id or None for none."""
    ids = {
        letter: number
        for number, letter in enumerate(map(chr, range(33, 127)))
        if of(letter, number) is not None
    }
    vocabulary = {letter: of(letter, number) for letter, number in ids.items()}
    return {
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [],
        },
        "added_tokens": [],
    }


HOSTILE = {
    "takes more than 10 s or 1 GB for 40 passages": replaced(
        2, "x" * 3_000, {"Regex": "."}
    ),
    "could not be read: Onig: Regex search error: retry-limit-in-match over": split_by(
        r"^(([a-z ])+.)+[A-Z]([a-z ])+$"
    ),
    "gives token 1,000,000, and the model knows 400": starting_with(10**6),
    "makes 30,": starting_with(*[0] * 30_000),
    "gives token 1,05": with_ids(lambda _, number: number + 1000),
    "has no token for 'e'": with_ids(
        lambda letter, number: None if letter == "e" else number
    ),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_any_weight_is_read(
    tmp_path, store, said
):
    folder = save_tiny(tmp_path / "m")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | HOSTILE[said]))
    with pytest.raises(ModelError) as caught:
        locate_model(str(folder), store)
    assert caught.value.message.startswith(f"The tokenizer of {folder} {said}")
    assert caught.value.advice


def test_a_file_that_is_not_tried_is_not_read(tmp_path):
    folder = save_tiny(tmp_path / "m")
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text())
            | {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}
        )
    )
    with pytest.raises(ModelError, match="has several files"):
        tokenizer_check.require_usable(folder, "m", VOCABULARY)


def test_a_tokenizer_that_was_tried_is_not_tried_again(tmp_path, store, monkeypatch):
    folder = save_tiny(tmp_path / "m")
    locate_model(str(folder), store)
    monkeypatch.setattr(
        trials.subprocess, "run", lambda *_, **__: pytest.fail("tried again")
    )
    locate_model(str(folder), store)
    with pytest.raises(pytest.fail.Exception):
        tokenizer_check.require_usable(folder, "m", VOCABULARY)
