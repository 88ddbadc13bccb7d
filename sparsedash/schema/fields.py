"""Declares settings: `settings` and `method_settings` hold each one's default, limits, label, help,
flag, address key.

From these rows are made the fields of the form (`ui.form_fields`), its address (`ui.form_address`),
the flags of the commands (`shell.flags`) and the checks of values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.plain_values import require_reference, require_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

MAX_SEED = 2**31 - 1
MAX_LINES = 10
"""Lines of a setting that is a list of texts."""
LONGEST_LINE = 300
"""Characters of such a line."""

Kind = Literal[
    "choice", "lines", "number", "reference", "sparsities", "switch", "whole"
]
_KINDS: dict[object, Kind] = {
    bool: "switch",
    int: "whole",
    int | None: "whole",
    float: "number",
    str: "reference",
    tuple[int, ...]: "sparsities",
    tuple[str, ...]: "lines",
}


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """One setting, in plain values.

    title: in errors, else the name. options: of a choice. low, high: limits, both allowed; above: a
    lower limit that is not, for values that only the field of the form does not go down to. label,
    help: of the field. empty: what the field shows without a value. key: in the address of the
    page, else the name. flag: of the commands, with its own help where that is not the field's.
    starts: other values to begin with than the default, by `form` or the command.
    """

    name: str
    kind: Kind
    default: Any
    options: tuple[str, ...]
    title: str
    low: float = 0
    high: float = 1
    above: float | None = None
    label: str = ""
    help: str = ""
    empty: str = ""
    key: str = ""
    flag: str = ""
    flag_help: str = ""
    starts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def problem(self, value: Any) -> SettingsError | None:
        """The reason the setting cannot have this value, or None."""
        try:
            self.check(value)
        except SettingsError as error:
            return error
        return None

    def check(self, value: Any) -> None:
        """Raise SettingsError unless the setting can have this value."""
        match self.kind:
            case "choice" if value not in self.options:
                raise SettingsError(
                    self.title, value, f"one of {', '.join(self.options)}"
                )
            case "reference":
                require_reference(self.title, value)
            case "lines":
                self._check_lines(value)
            case "whole" if value is not None or self.default is not None:
                require_whole(self.title, value, int(self.low), int(self.high))
            case "number":
                allowed = f"from {self.low:g} to {self.high:g}"
                lowest = self.low
                if self.above is not None:
                    allowed = f"more than {self.above:g}, at most {self.high:g}"
                    lowest = self.above
                is_number = type(value) in (int, float)
                if (
                    not is_number
                    or not lowest <= value <= self.high
                    or value == self.above
                ):
                    raise SettingsError(self.title, value, allowed)

    def _check_lines(self, lines: tuple[str, ...]) -> None:
        """Raise SettingsError unless they are few, short and different."""
        if len(lines) > MAX_LINES:
            raise SettingsError(
                self.title, f"{len(lines)} lines", f"at most {MAX_LINES}"
            )
        for number, line in enumerate(lines):
            if line in lines[:number]:
                raise SettingsError(self.title, line, "named once each")
            # Only a printable line can be stored; it is one line then.
            if (
                line != line.strip()
                or not 0 < len(line) <= LONGEST_LINE
                or not line.isprintable()
            ):
                allowed = f"1 to {LONGEST_LINE} characters in one line, all printable, without spaces around them"
                raise SettingsError(self.title, line[:40], allowed)


def setting(default: T, **row: Any) -> T:
    """A field of a dataclass with this default and the other values of its `FieldRow`."""
    declared: T = field(default=default, metadata={"row": row})
    return declared


@cache
def field_rows(settings: "type[DataclassInstance]") -> Mapping[str, FieldRow]:
    """The rows of a dataclass of settings, in order, by the names of its attributes."""
    hints = get_type_hints(settings)
    rows = {}
    for declared in fields(settings):
        if "row" not in declared.metadata:
            continue
        name = declared.name
        hint = hints[name]
        kind = _KINDS.get(hint, "choice")
        options = get_args(hint) if kind == "choice" else ()
        usual = {"name": name, "title": name.replace("_", " "), "key": name}
        values = usual | declared.metadata["row"]
        rows[name] = FieldRow(
            kind=kind, default=declared.default, options=options, **values
        )
    return MappingProxyType(rows)


def check_settings(settings: "DataclassInstance") -> None:
    """Check every setting that has a row. Raises SettingsError.

    Whole numbers become floats where any number is allowed: 1 and 1.0 are equal settings and have
    one key.
    """
    for name, row in field_rows(type(settings)).items():
        value = getattr(settings, name)
        row.check(value)
        if row.kind == "number":
            object.__setattr__(settings, name, float(value))
