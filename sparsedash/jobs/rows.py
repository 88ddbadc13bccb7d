"""A row of the job table as a Job: every value is checked, and a row that cannot be read becomes a crashed job."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from sparsedash.jobs.job import DAMAGED, LOST, Job
from sparsedash.schema.hashing import canonical_json
from sparsedash.schema.secrets import encodable

_TYPES = {name: kind for name, kind in get_type_hints(Job, include_extras=True).items() if name != "log_path"}
_TEXT = "Its row in the job table was damaged and could not be read."
_ADVICE = "What it had finished is kept. Ask for it again; is the disk sound?"


def asked_digest(kind: str, key: str, settings: str) -> str:
    """What tells that this is what was asked for: a flipped bit in settings can make others that are as possible."""
    return hashlib.sha256("\0".join((kind, key, settings)).encode()).hexdigest()


def job_of(row: Mapping[str, Any], logs: Path) -> Job:
    """The job of a row. Raises ValueError where a value is none that this program writes."""
    if not all(_is_text(value) for value in row.values() if isinstance(value, str)):
        raise ValueError("a text is not UTF-8")
    if not _is_as_asked(row):
        raise ValueError("its settings are not those that were asked for")
    values = {**row, "settings": _settings(row["settings"]), "log_path": str(logs / f"{row['id']}.log")}
    try:
        values["taken"] = json.loads(row["taken"])
        return msgspec.convert(values, Job)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def mended(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a crashed job, with what can be read of a damaged one."""
    now = time.time()
    kept = {name: row[name] for name in _TYPES if _is_sound(row[name], _TYPES[name])}
    values = {**_fresh(row["id"], now), **kept, "state": "crashed", "finished_at": now, "rate": None}
    try:
        known = "kind" in kept and _is_as_asked(row)
        values["settings"] = canonical_json(_settings(row["settings"]) if known else LOST)
    except ValueError:
        values |= {"kind": "run", "settings": canonical_json(LOST)}
    values["digest"] = asked_digest(values["kind"], values["key"], values["settings"])
    return values | {"taken": "[]", "error_kind": DAMAGED, "error_text": _TEXT, "error_advice": _ADVICE}


def _is_as_asked(row: Mapping[str, Any]) -> bool:
    """Whether kind, key and settings are those that were written first; rows of earlier versions carry no digest."""
    asked = [row["kind"], row["key"], row["settings"]]
    if row["digest"] == "":
        return True
    return all(isinstance(text, str) and _is_text(text) for text in asked) and row["digest"] == asked_digest(*asked)


def _fresh(job_id: int, now: float) -> dict[str, Any]:
    possible: tuple[object, ...] = (None, "", 0, {}, [], "run", "queued", 1, "normal")
    empty = {name: next(v for v in possible if _is_sound(v, kind)) for name, kind in _TYPES.items()}
    return empty | {"key": f"damaged-{job_id}", "created_at": now, "queued_at": now}


def _settings(text: object) -> dict[str, Any]:
    if not isinstance(text, str) or not _is_text(text):
        raise ValueError("the settings are no text")
    try:
        settings = json.loads(text)
    except RecursionError as error:
        raise ValueError("the settings are too deep") from error
    if not isinstance(settings, dict):
        raise ValueError("the settings are no object")
    return settings


def _is_sound(value: object, kind: Any) -> bool:
    if isinstance(value, str) and not _is_text(value):
        return False
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _is_text(value: str) -> bool:
    """False for one with bytes that were no UTF-8: the connection reads them as halves of characters."""
    return encodable(value) == value
