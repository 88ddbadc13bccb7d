"""promptfoo: the JSON that `promptfoo eval --output FILE.json` writes.

A question is a test: its variables and assertions. Every provider is a model, every prompt a task.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.storage.answers.parsed_answers import (
    Declared,
    ParsedAnswer,
    begins_with,
    checked_answers,
    json_decoded,
    json_document,
    nested_entry,
    parsed_answer,
    question_set,
    sha256_of,
    shared_passage,
    short_fields,
)

_FAILED = 2
"""The reason of a failure that is an error of the provider, not a wrong answer."""
_MEASURE = "success"


@dataclass(kw_only=True)
class _Prompt:
    raw: str
    label: str = ""


@dataclass(kw_only=True)
class _Provider:
    id: str
    label: str | None = None


@dataclass(kw_only=True)
class _Result:
    provider: _Provider
    prompt: _Prompt
    success: bool
    testCase: dict[str, Any]  # noqa: N815 - as promptfoo names it
    response: dict[str, Any] | None = None
    failureReason: int = 0  # noqa: N815


@dataclass(kw_only=True)
class _Results:
    results: list[Any]


@dataclass(kw_only=True)
class _File:
    results: _Results
    config: dict[str, Any] = field(default_factory=dict)


def is_results_file(file: Path) -> bool:
    """Whether a file begins as promptfoo's do."""
    return begins_with(file, rb'"evalId"\s*:')


def read_results(files: Sequence[Path]) -> Iterator[QuestionSet]:
    """A set a provider and prompt. Raises CorpusError."""
    for file in files:
        yield from _read_file(file)


def _read_file(file: Path) -> Iterator[QuestionSet]:
    document = json_document(file, _File)
    answers: dict[tuple[str, str], list[ParsedAnswer]] = defaultdict(list)
    omitted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def read(content: Any) -> ParsedAnswer | None:
        result = json_decoded(content, _Result)
        key = result.provider.label or result.provider.id, result.prompt.label
        if result.failureReason == _FAILED:
            omitted[key]["with an error"] += 1
            return None
        answer = _answer(result)
        answers[key].append(answer)
        return answer

    if not list(checked_answers(document.results.results, file.name, "Result", read)):
        raise CorpusError(f"{file.name} holds no answers.")
    labels = {label for _, label in (*answers, *omitted)}
    name = str(document.config.get("description") or file.stem)
    for model, label in {**answers, **omitted}:
        task = f"{name}: {label}" if len(labels) > 1 else name
        declared = Declared(task=task, higher_is_better={_MEASURE: True})
        yield question_set(
            answers[model, label],
            file.name,
            model,
            declared,
            omitted[model, label],
        )


def _answer(result: _Result) -> ParsedAnswer:
    test = result.testCase
    variables = test.get("vars") or {}
    assertions = test.get("assert") or []
    expected = [nested_entry(assertion, "value") for assertion in assertions]
    target = "; ".join(str(value) for value in expected if value is not None)
    output = nested_entry(result.response, "output")
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    values = {
        "doc_hash": sha256_of(json.dumps(variables, sort_keys=True)),
        "prompt_hash": sha256_of(result.prompt.raw),
        "target_hash": sha256_of(json.dumps(assertions, sort_keys=True)),
        "context": result.prompt.raw,
        "target": target,
        "fields": short_fields(variables) | short_fields(test.get("metadata")),
        "cluster": shared_passage(variables),
        "text": text,
        "answer": text,
    }
    return parsed_answer({_MEASURE: result.success}, values, None)
