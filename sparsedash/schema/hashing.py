"""How keys are made: the sha256 of canonical JSON of plain values, and of a stage's version beside them."""

import hashlib
import json
from typing import Any

STAGE_VERSIONS: dict[str, int] = {
    "text": 3,
    "statistics": 3,
    "gradients": 1,
    "inputs": 1,
    "sensitivity": 5,
    "activations": 1,
    "pruned": 4,
    "solve": 3,
    "elimination": 3,
    "outcomes": 4,
    "continuation": 1,
    "divergence": 1,
    "timing": 1,
    "export": 1,
}
"""Raise a stage's number when its maths changes: what was stored under the old one is not used again."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces. Raises TypeError on anything not plain."""
    _require_text_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Lower-case hexadecimal sha256 of the canonical JSON of a plain value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def stage_key(stage: str, **parts: Any) -> str:
    """The key of one stage's result: the stage, its version, and what affects it."""
    return digest({"stage": stage, "version": STAGE_VERSIONS[stage], **parts})


def _require_text_keys(value: Any) -> None:
    """Raise TypeError where a mapping has a key that json would silently turn into text."""
    if isinstance(value, dict):
        if any(type(name) is not str for name in value):
            raise TypeError(f"keys must be text: {list(value)!r}")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _require_text_keys(part)
