"""Fetch a model's files of one commit from the Hugging Face hub into its local cache, or say why it cannot be done.

As a process of its own it fetches a model's config.json alone:

    python -m sparsedash.engine.models.hub OWNER/NAME[@REVISION] [--no-token]

and prints one JSON object, with `message` and `advice` where it could not be fetched.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NoReturn

from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The HTTP library under the hub's client has another name in every other version; this is what its errors have in
# common.
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]

from sparsedash.schema.errors import ModelError
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.storage.model_folders import HUB_ID

PROBE_S = 3.0
_WRITE = f"Write owner/name, owner/name@revision, a folder, a .gguf file, or {BUILTIN_MODEL}."
_PHRASES = {known.value: known.phrase for known in HTTPStatus}


def reachable() -> bool:
    """Whether the hub answers within PROBE_S; not when the environment says to stay off the network."""
    answers: SimpleQueue[bool] = SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_S)
        except (HTTPError, OSError):
            answers.put(False)
        else:
            answers.put(True)

    # In a thread: looking up a name knows no timeout.
    Thread(target=ask, name="hub", daemon=True).start()
    with suppress(Empty):
        return answers.get(timeout=PROBE_S)
    return False


def require_reachable(reference: str) -> None:
    """Raise ModelError unless the hub can be asked for this model, which is not in the local cache."""
    if not reachable():
        raise _out_of_reach(reference)


@contextmanager
def token_used(allowed: bool) -> Iterator[None]:
    """Within, the hub is asked with the token of whoever runs this program, or with none at all."""
    before = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = before


def fetch(reference: str, revision: str, *patterns: str) -> Path:
    """The folder of one commit, which it is named by, with the files that match. Those in subfolders are other formats.

    reference: owner/name, or with @revision; only its name counts. revision: branch, tag or commit; empty for the usual
    one. What has arrived is not fetched again, and found where the hub does not answer. Raises ModelError.
    """
    name = reference.partition("@")[0]
    if not HUB_ID.fullmatch(reference):
        raise ModelError(f"{reference!r} is neither a hub id nor a path.", _WRITE)
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            local_files_only=not reachable(),
        )
    except (HTTPError, OSError, HFValidationError) as error:
        _refuse(reference, error)
    return Path(folder)


def _refuse(reference: str, error: Exception) -> NoReturn:
    name, _, revision = reference.partition("@")
    private = "a private model needs the hub's token in HF_TOKEN."
    status = _status(error)
    match error:
        case HFValidationError():
            said = f"{reference!r} is neither a hub id nor a path: {_first_line(error)}", _WRITE
        case GatedRepoError():
            advice = "Ask for access on its page there, and start with the hub's token in HF_TOKEN."
            said = f"{name} is gated: the hub gives it only to those who were let in.", advice
        case RevisionNotFoundError():
            said = f"{name} has no revision {revision!r}.", "Write a branch, a tag or a whole commit after the @."
        case RepositoryNotFoundError():
            said = f"There is no {name} on the hub, or it is private.", f"Check the spelling; {private}"
        case _ if status:
            said = _answered(reference, status)
        case LocalEntryNotFoundError():
            raise _out_of_reach(reference) from error
        case _:
            advice = "Start again: the files that have arrived are kept."
            said = f"{reference} could not be fetched: {_first_line(error)}", advice
    raise ModelError(*said) from error


def _out_of_reach(reference: str) -> ModelError:
    return ModelError(
        f"{reference} is not in the local cache, and the hub cannot be reached.",
        f"Connect to the network once, name a local folder, or use {BUILTIN_MODEL}.",
    )


def _status(error: BaseException | None) -> int:
    """The HTTP status of a refusal without any other word; 0 where nothing answered."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and status >= HTTPStatus.BAD_REQUEST:
            return status
        error = error.__cause__
    return 0


def _answered(reference: str, status: int) -> tuple[str, str]:
    """Message and advice for such an answer; a proxy on the way may have given it."""
    answer = f"{status} {_PHRASES.get(status, '')}".strip()
    message, advice = f"{reference} could not be fetched: the hub answered {answer}.", "Check the spelling"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        message = f"The hub does not give {reference} to this machine (it answered {answer})."
        advice = "Start with a token in HF_TOKEN that may read it"
    elif status == HTTPStatus.NOT_FOUND:
        message = f"The hub has no {reference} (it answered {answer})."
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        message, advice = f"The hub was asked too often (it answered {answer}).", "Try again in some minutes"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message, advice = f"The hub is in trouble (it answered {answer}).", "Try again later"
    return message, f"{advice}, name a local folder, or use {BUILTIN_MODEL}."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def main() -> None:
    """Fetch a config, and say what went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reference")
    parser.add_argument("--no-token", action="store_true")
    asked = parser.parse_args()
    said = {}
    try:
        with token_used(not asked.no_token):
            fetch(asked.reference, asked.reference.partition("@")[2], "config.json")
    except ModelError as error:
        said = {"message": error.message, "advice": error.advice}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
