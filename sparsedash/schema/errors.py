"""Every error a user can meet.

    SparseDashError
    ├── SettingsError      a setting is out of range or contradicts another
    ├── ModelError         the model cannot be found, reached, read or pruned
    ├── CorpusError        a text set cannot be found, reached or read
    ├── CalibrationError   the statistics do not support what was asked
    ├── ExportError        a sparse model cannot be written in the form asked for, or its files are not that model
    ├── StoreError         the data folder cannot be used, or an entry in it is damaged
    │   └── NewerError     an entry in it was written whole by another version, and is left alone
    ├── AccessError        it is somebody else's, or more than this visitor may
    ├── JobError           a job cannot be found or is not in the right state
    └── Cancelled          somebody asked the work to stop

A message says what was wrong and what is allowed; `advice` says what to do next. Whatever a library's own message has
brought along, neither holds a secret.
"""

from sparsedash.schema.secrets import redacted

_SHOWN = 200
"""Characters of a refused value; more would hide what is allowed."""


class SparseDashError(Exception):
    """Root of the tree. `message` is one line of plain text, `advice` one more or empty."""

    def __init__(self, message: str, advice: str = "") -> None:
        self.message = redacted(message)
        self.advice = redacted(advice)
        # Some messages end in what a library said.
        stop = "." if self.advice and self.message[-1:] not in ".!?:…" else ""
        super().__init__(f"{self.message}{stop} {self.advice}".strip())


class SettingsError(SparseDashError):
    """A setting was refused. `field` names it."""

    def __init__(self, field: str, value: object, allowed: str, advice: str = "") -> None:
        shown = repr(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        super().__init__(f"{field}: {shown} is not possible; allowed: {allowed}.", advice)
        self.field = field


class ModelError(SparseDashError):
    """The model cannot be found, reached, read or pruned."""


class CorpusError(SparseDashError):
    """A text set cannot be found, reached or read."""


class CalibrationError(SparseDashError):
    """The calibration statistics do not support what was asked."""


class ExportError(SparseDashError):
    """A sparse model cannot be written in the form asked for, or its files are not that model."""


class StoreError(SparseDashError):
    """The data folder cannot be used, or an entry in it is damaged."""


class NewerError(StoreError):
    """An entry in the data folder is whole, but of a form that this version does not know. It is never replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} in the data folder was written by another version of SparseDash, most likely a newer one, and is "
            "left as it is.",
            "Upgrade, or name another data folder.",
        )


class AccessError(SparseDashError):
    """It is somebody else's, or more than this visitor may."""


class JobError(SparseDashError):
    """A job cannot be found, or is not in a state that allows what was asked."""


class Cancelled(SparseDashError):  # noqa: N818 - it is not an error that somebody stopped it
    """Somebody asked the work to stop; nothing half-done was kept."""

    def __init__(self) -> None:
        super().__init__("Stopped on request.", "What was finished before is kept; start again to go on.")
