"""Fingerprints that show whether the local files behind a reference have changed, without reading them."""

from pathlib import Path

from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.local_paths import kind_of, local_path
from sparsedash.storage.texts.text_refs import FILE, file_of


def fingerprint(reference: str) -> str:
    """Sizes and times of the file or folder that a reference names; empty where it names none on this machine.

    Of an upload it is empty too: the reference holds the hash of its content.
    """
    path = local_path(reference)
    if reference.startswith(FILE):
        path = file_of(reference, Path()) or path
    try:
        files = sorted(path.iterdir()) if kind_of(path) == "folder" else [path]
        states = [(file.name, file.stat()) for file in files]
    except OSError:
        return ""
    return ",".join(f"{name}:{state.st_size}:{state.st_mtime_ns}" for name, state in states)


def fingerprints(settings: RunSettings | FindSettings) -> dict[str, str]:
    """The fingerprints of everything local that a run or a search reads, by reference."""
    references = (settings.model, settings.calibration.corpus, settings.evaluation.corpus)
    return {reference: mark for reference in references if (mark := fingerprint(reference))}
