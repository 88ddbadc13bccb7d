"""Fetches a model's files of one commit from the Hugging Face hub into its local cache.

As a program it looks up the current commits of names, and fetches config.json of models:

    python -m sparsedash.engine.models.hub [--no-token] -- OWNER/NAME[@REVISION] datasets/OWNER/NAME ...

and prints one JSON object: by name the `commit`, or the error's `message` and `advice`.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import responses
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The HTTP library under the hub's client has another name in every other version; this is what its
# errors have in common.
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]

from sparsedash.schema.errors import ModelError, first_line
from sparsedash.schema.settings import BUILTIN_MODEL, DATA_SET
from sparsedash.storage.hub_reach import reachable
from sparsedash.storage.model_folders import HUB_ID

_TIMEOUT_S = 10.0
"""Of a request about a data set."""
_WRITE = f"Write owner/name, owner/name@revision, a folder, a .gguf file, or {BUILTIN_MODEL}."


def require_reachable(reference: str) -> None:
    """Raise ModelError unless the hub can be reached for this uncached model."""
    if not reachable():
        raise _out_of_reach(reference)


@contextmanager
def token_used(allowed: bool) -> Iterator[None]:
    """Inside, the hub is asked with the user's own token, or with none."""
    before = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = before


def fetch(reference: str, revision: str, *patterns: str) -> Path:
    """The folder of one commit, named by it, with the matching files; none in subfolders.

    reference: owner/name, or with @revision; only its name counts. revision: branch, tag or commit;
    empty for the default. Cached files are not fetched again, and serve while the hub does not
    answer. Raises ModelError.
    """
    name = reference.partition("@")[0]
    if not HUB_ID.fullmatch(reference):
        raise ModelError(f"{reference!r} is neither a hub id nor a path.", _WRITE)
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(patterns),
            # Mistral's folders hold all weights once more, for its own program.
            ignore_patterns=["*/*", "consolidated*"],
            local_files_only=not reachable(),
        )
    except (HTTPError, OSError, HFValidationError) as error:
        raise _refusal(reference, error) from error
    return Path(folder)


_OTHERWISE = f"name a local folder, or use {BUILTIN_MODEL}."
_OF_TOKEN = "Start with a token in HF_TOKEN that may read it"
_REFUSALS = {
    HFValidationError: (
        "{reference!r} is neither a hub id nor a path: {reason}.",
        _WRITE,
    ),
    GatedRepoError: (
        "{name} is gated: ask for access on its page.",
        f"{_OF_TOKEN}, {_OTHERWISE}",
    ),
    RevisionNotFoundError: (
        "{name} has no revision {revision!r}.",
        "Write a branch, a tag or a commit after the @.",
    ),
    RepositoryNotFoundError: (
        "There is no {name} on the hub, or it is private.",
        f"Check the spelling. {_OF_TOKEN}.",
    ),
}
_ADVICE = {401: _OF_TOKEN, 403: _OF_TOKEN, 429: "Try again in some minutes"}
"""By the status where the hub gives no other reason; a proxy on the way may have answered."""


def _refusal(reference: str, error: Exception) -> ModelError:
    name, _, revision = reference.partition("@")
    reason = first_line(error)
    for kind, (message, advice) in _REFUSALS.items():
        if isinstance(error, kind):
            parts = {"reference": reference, "name": name, "revision": revision}
            return ModelError(message.format(**parts, reason=reason), advice)
    if status := _status(error):
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        usual = "Try again later" if failed else "Check the spelling"
        answer = f"{status} {responses.get(status, '')}".strip()
        advice = f"{_ADVICE.get(status, usual)}, {_OTHERWISE}"
        return ModelError(
            f"The hub refused {reference} (it answered {answer}).", advice
        )
    if isinstance(error, LocalEntryNotFoundError):
        return _out_of_reach(reference)
    advice = "Start again: the files that have arrived are kept."
    return ModelError(f"{reference} could not be fetched: {reason}.", advice)


def _out_of_reach(reference: str) -> ModelError:
    advice = f"Connect to the network once, {_OTHERWISE}"
    return ModelError(
        f"{reference} is not in the local cache, and the hub cannot be reached.", advice
    )


def _status(error: BaseException | None) -> int:
    """The HTTP status of a refusal without another reason; 0 if nothing answered."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and status >= HTTPStatus.BAD_REQUEST:
            return status
        error = error.__cause__
    return 0


def current_commit(name: str) -> str:
    """The current commit of a name. Raises ModelError.

    name: a model's reference, whose config.json is fetched; or DATA_SET before owner/name.
    """
    if not name.startswith(DATA_SET):
        return fetch(name, name.partition("@")[2], "config.json").name
    data_set = name.removeprefix(DATA_SET)
    try:
        return str(HfApi().dataset_info(data_set, timeout=_TIMEOUT_S).sha)
    except (HTTPError, OSError, HFValidationError) as error:
        raise _refusal(data_set, error) from error


def main() -> None:
    """Print the commits of the names, or what went wrong."""
    mark = sys.argv.index("--")
    answers = {}
    with token_used("--no-token" not in sys.argv[1:mark]):
        for name in sys.argv[mark + 1 :]:
            try:
                answers[name] = {"commit": current_commit(name)}
            except ModelError as error:
                answers[name] = {"message": error.message, "advice": error.advice}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
