"""Values allowed in the fields of a user's task file, and targets of its questions.

Checked before the harness or a template sees them, so that a refusal names the field.
"""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from sparsedash.schema.errors import CorpusError

_MAX_VALUES = 100_000
"""In a file, each counted wherever an alias repeats it."""
_MAX_SHOTS = 100
_MAX_WRITTEN = 1_000_000
_LONGEST_NAME = 200
_LONGEST_SHOWN = 60
_KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling", "multiple_choice")


class _Rule(NamedTuple):
    """Values allowed in a field, in words and as a test."""

    allowed: str
    holds: Callable[[Any], bool]


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value.strip()) <= _LONGEST_NAME
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and isfinite(value))


def _is_list_of(holds: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_measure(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("metric"))


def _is_function(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("function"))


def _is_filter(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and _is_list_of(_is_function, value.get("filter"))
    )


def _are_stops(value: Any) -> bool:
    return _is_text(value) or _is_list_of(_is_text, value)


_NAME = _Rule(f"a name of at most {_LONGEST_NAME} printable characters", _is_name)
_TEXT = _Rule("a text", _is_text)
_FLAG = _Rule("true or false", lambda value: isinstance(value, bool))
_FIELDS = _Rule("fields with values", lambda value: isinstance(value, dict))
_NUMBER = _Rule("a number", _is_number)
_LENGTH = _Rule(
    f"a whole number, 1 to {_MAX_WRITTEN:,}",
    lambda value: _is_whole(value) and 1 <= value <= _MAX_WRITTEN,
)
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(
        ("task", "training_split", "validation_split", "test_split", "fewshot_split"),
        _NAME,
    ),
    **dict.fromkeys(
        ("description", "gen_prefix", "target_delimiter", "fewshot_delimiter"), _TEXT
    ),
    **dict.fromkeys(("dataset_kwargs", "generation_kwargs", "fewshot_config"), _FIELDS),
    "output_type": _Rule(f"one of {', '.join(_KINDS)}", lambda value: value in _KINDS),
    "num_fewshot": _Rule(
        f"a whole number, 0 to {_MAX_SHOTS}",
        lambda value: _is_whole(value) and 0 <= value <= _MAX_SHOTS,
    ),
    "doc_to_text": _Rule(
        "a text or a whole number", lambda value: _is_text(value) or _is_whole(value)
    ),
    "doc_to_target": _Rule(
        "a text, a whole number or a list",
        lambda value: _is_text(value) or _is_whole(value) or isinstance(value, list),
    ),
    "doc_to_choice": _Rule(
        "a text, or a list or fields of texts",
        lambda value: isinstance(value, str | list | dict),
    ),
    "metric_list": _Rule(
        "a list, each with a metric", lambda value: _is_list_of(_is_measure, value)
    ),
    "filter_list": _Rule(
        "a list, each with a name, and a filter that is a list, each with a function",
        lambda value: _is_list_of(_is_filter, value),
    ),
    "should_decontaminate": _FLAG,
    "doc_to_decontamination_query": _TEXT,
    "generation_kwargs.until": _Rule("a text or a list of texts", _are_stops),
    "generation_kwargs.do_sample": _FLAG,
    **dict.fromkeys(
        (f"generation_kwargs.{name}" for name in ("temperature", "top_p", "top_k")),
        _NUMBER,
    ),
    **dict.fromkeys(
        (
            f"generation_kwargs.{name}"
            for name in (
                "max_gen_toks",
                "max_new_tokens",
                "max_tokens",
                "max_completion_tokens",
            )
        ),
        _LENGTH,
    ),
    "fewshot_config.split": _NAME,
    "fewshot_config.sampler": _NAME,
    "fewshot_config.samples": _Rule(
        "a list of questions", lambda value: _is_list_of(_FIELDS.holds, value)
    ),
}
"""By the field; one that is null is as one that is not there."""


def require_fields(file: str, config: Mapping[str, Any]) -> None:
    """Raise CorpusError with the field that holds what it may not. file: its name."""
    if not _holds_few(config):
        raise CorpusError(
            f"{file} holds more than {_MAX_VALUES:,} values.",
            "Put questions into its data.",
        )
    values = dict(config)
    for outer in ("generation_kwargs", "fewshot_config"):
        if isinstance(inner := config.get(outer), dict):
            values |= {f"{outer}.{name}": value for name, value in inner.items()}
    for field, rule in _RULES.items():
        value = values.get(field)
        if value is not None and not rule.holds(value):
            raise CorpusError(
                f"{file}: {field} must be {rule.allowed}, not {_short(repr(value))}."
            )


def _holds_few(config: Mapping[str, Any]) -> bool:
    """Whether a file has at most _MAX_VALUES values, counting what aliases repeat."""
    waiting: list[Any] = [config]
    n_values = 1
    while waiting:
        value = waiting.pop()
        inside = (
            list(value.values())
            if isinstance(value, dict)
            else value
            if isinstance(value, list)
            else []
        )
        n_values += len(inside)
        if n_values > _MAX_VALUES:
            return False
        waiting += inside
    return True


def shown(value: object) -> str:
    """A name from a task file for an error: printable and short."""
    text = str(value)
    return _short(text if text.isprintable() else repr(text))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def require_targets(name: str, task: Any, docs: Iterable[Any]) -> None:
    """Raise CorpusError for the first question whose target is none of its choices.

    task: the harness's own object.
    """
    if task.config.doc_to_choice is None:
        return
    field = "doc_to_text" if task.multiple_input else "doc_to_target"
    for number, doc in enumerate(docs, 1):
        choices = task.doc_to_choice(doc)
        if not _is_list_of(_is_text, choices) or not choices or "" in choices:
            problem = f"{name}: doc_to_choice of question {number:,} is {_short(repr(choices))}"
            raise CorpusError(
                f"{problem}; it must be a list of texts that are not empty."
            )
        target = getattr(task, field)(doc)
        places = target if isinstance(target, list) else [target]
        is_text_of_one = isinstance(target, str) and target in choices
        if not is_text_of_one and not all(
            place in range(len(choices)) for place in places
        ):
            problem = f"{name}: {field} of question {number:,} is {_short(repr(target))}, which is no choice."
            raise CorpusError(
                problem,
                f"Name a choice by its number, 0 to {len(choices) - 1}, or by its text.",
            )
