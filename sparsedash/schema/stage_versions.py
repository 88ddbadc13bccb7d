"""Version of every stage, and the keys of their results."""

from typing import Any

from sparsedash.schema.plain_values import digest

_CALIBRATED = (
    "text",
    "statistics",
    "gradients",
    "inputs",
    "curves",
    "order",
    "activations",
)
_ANSWERED = (
    "pruned",
    "solve",
    "elimination",
    "random",
    "healed",
    "quantised",
    "outcomes",
    "answers",
)
_PAIRED = ("continuation", "divergence", "timing", "export")
STAGE_VERSIONS = dict.fromkeys((*_CALIBRATED, *_ANSWERED, *_PAIRED), 1) | {
    "allocation": 2,
    "statistics": 4,
    "inputs": 2,
    "curves": 5,
    "elimination": 2,
    "random": 2,
    "pruned": 6,
    "healed": 3,
    "divergence": 2,
    "answers": 2,
}
"""Raise a stage's number when its maths changes: results under the old one are not used again."""


def stage_key(stage: str, **parts: Any) -> str:
    """The key of one stage's result: the stage, its version, and what affects it."""
    return digest({"stage": stage, "version": STAGE_VERSIONS[stage], **parts})
