"""Task files that would take all time or memory, or hold what no field may: by name, with the words
of the refusal.
"""

import json
import os

import pyarrow.parquet

from tests.engine.conftest import passages
from tests.engine.tasks.task_folder import (
    LAST_WORD,
    MULTIPLE_CHOICE,
    ROLLING,
    WRITTEN,
    write_task,
)

LONG_LOOP = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
)
EMPTY_LOOP = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
)
DOUBLING = "{% set n = namespace(t='x') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
THREE_GB = "{{ 'a' * 3000000000 }}"
LAST_ONLY = (
    "{% if question == '"
    + passages(3)[2]
    + "' %}"
    + EMPTY_LOOP
    + "{% endif %}{{ question }}"
)


def with_rules(**rules):
    return WRITTEN | {"generation_kwargs": {"until": ["\n"]} | rules}


REFUSED_BY_FIELD = {
    "a name with NUL": (WRITTEN | {"task": "a\0b"}, r"task must be .*not 'a\\x00b'"),
    "an empty name": (WRITTEN | {"task": ""}, "task must be "),
    "an endless name": (WRITTEN | {"task": "a" * 10_000}, "task must be "),
    "a negative length": (
        with_rules(max_gen_toks=-5),
        "generation_kwargs.max_gen_toks must be .*, not -5",
    ),
    "a length of zero": (
        with_rules(max_new_tokens=0),
        "generation_kwargs.max_new_tokens must be .*, not 0",
    ),
    "a length in words": (
        with_rules(max_tokens="many"),
        "generation_kwargs.max_tokens must be ",
    ),
    "a length without end": (
        with_rules(max_gen_toks=float("inf")),
        "generation_kwargs.max_gen_toks must be ",
    ),
    "a huge length": (
        with_rules(max_gen_toks=10**30),
        "generation_kwargs.max_gen_toks must be ",
    ),
    "a stop that is a number": (
        with_rules(until=5),
        "generation_kwargs.until must be ",
    ),
    "rules as a list": (
        WRITTEN | {"generation_kwargs": ["until"]},
        "generation_kwargs must be ",
    ),
    "fewer than no examples": (
        WRITTEN | {"num_fewshot": -1},
        "num_fewshot must be .*, not -1",
    ),
    "a billion examples": (WRITTEN | {"num_fewshot": 10**9}, "num_fewshot must be "),
    "a number of measures": (WRITTEN | {"metric_list": 5}, "metric_list must be "),
    "measures without fields": (
        WRITTEN | {"metric_list": ["acc"]},
        "metric_list must be ",
    ),
    "a filter without a name": (
        WRITTEN | {"filter_list": [{"filter": []}]},
        "filter_list must be ",
    ),
    "a filter without functions": (
        WRITTEN | {"filter_list": [{"name": "a", "filter": [5]}]},
        "filter_list must be ",
    ),
    "a number of data": (WRITTEN | {"dataset_kwargs": 5}, "dataset_kwargs must be "),
    "examples as text": (
        WRITTEN | {"fewshot_config": "first"},
        "fewshot_config must be ",
    ),
    "a list of prompts": (
        WRITTEN | {"doc_to_text": ["question"]},
        "doc_to_text must be ",
    ),
    "a number of choices": (
        MULTIPLE_CHOICE | {"doc_to_choice": 7},
        "doc_to_choice must be ",
    ),
    "an unknown kind": (
        WRITTEN | {"output_type": "nonsense"},
        "output_type must be one of ",
    ),
    "a description that is a number": (
        WRITTEN | {"description": 5},
        "description must be ",
    ),
    "a split that is a number": (WRITTEN | {"test_split": 5}, "test_split must be "),
    "a flag that is text": (
        WRITTEN | {"should_decontaminate": "yes"},
        "should_decontaminate must be ",
    ),
    "data with NUL": (
        WRITTEN | {"dataset_kwargs": {"data_files": {"test": "a\0b"}}},
        r"names 'a\\x00b', which is no",
    ),
    "data of two lines": (
        WRITTEN | {"dataset_kwargs": {"data_files": "a\nb"}},
        r"names 'a\\nb', which is no",
    ),
    "a measure with NUL": (
        WRITTEN | {"metric_list": [{"metric": "a\0b"}]},
        r"names the metric 'a\\x00b'",
    ),
    "a field with a line break": (WRITTEN | {"a\nb": 1}, r"could run code: 'a\\nb'"),
    "a first target beyond the choices": (
        MULTIPLE_CHOICE | {"doc_to_target": 7},
        "question 1 has no such doc_to_text, doc_to_target or",
    ),
    "a target beyond the choices": (
        MULTIPLE_CHOICE | {"doc_to_target": "{{ 7 if label else 0 }}"},
        "doc_to_target of question 2 is 7, which is no choice",
    ),
    "a target before the choices": (
        MULTIPLE_CHOICE | {"doc_to_target": -1},
        "doc_to_target of question 1 is -1",
    ),
    "a target in other words": (
        MULTIPLE_CHOICE | {"doc_to_target": "{{ 'none of these' }}"},
        "doc_to_target of question 1 is 'none of these', which is no choice",
    ),
    "a written target beyond the choices": (
        WRITTEN
        | {"doc_to_choice": "choices", "doc_to_target": "{{ 9 if label else 0 }}"},
        "doc_to_target of question 2 is 9, which is no choice",
    ),
    "a choice without text": (
        MULTIPLE_CHOICE | {"doc_to_choice": "{{ ['a', 'b' * (1 - label)] }}"},
        "doc_to_choice of question 2 is",
    ),
    "a first choice without text": (
        MULTIPLE_CHOICE | {"doc_to_choice": ["a", ""]},
        "question 1 has no such .* doc_to_choice",
    ),
    "choices that are numbers": (
        MULTIPLE_CHOICE | {"doc_to_choice": "{{ [1, 2] }}"},
        "question 1 has no such .* doc_to_choice",
    ),
}
"""Fields of a file, and the words of its refusal."""

LAUGHS = "".join(
    f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGED = "".join(
    f"  l{n}: &l{n}\n    <<: [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
REFUSED_AS_YAML = {
    "aliases of aliases": (
        f"task: bad\nmetadata:\n  l0: &l0 [{'x, ' * 9}]\n{LAUGHS}",
        "values",
    ),
    "an alias of itself": ("task: bad\nmetadata: &a [*a]\n", "values"),
    "a nest of lists": ("task: bad\nmetadata: " + "[" * 50_000, "cannot be read"),
    "a megabyte": ("task: bad\n#" + "x" * 2_000_000, "1 MB"),
    "a number of 5,000 digits": (
        "task: bad\nmetadata: " + "9" * 5_000,
        "cannot be read",
    ),
    "control characters": ("task: bad\x07\x1b[2J", "cannot be read"),
    "a date that is none": ("task: bad\nmetadata: 2001-99-99\n", "cannot be read"),
    "a Python object": (
        "task: !!python/object/apply:os.system [ls]\n",
        "cannot be read",
    ),
    "a list": ("- task: bad\n", "names no task"),
    "nothing": ("", "names no task"),
    "a key that is a list": ("? [a, b]\n: 1\n", "cannot be read"),
}
"""Texts of files, and the words of their refusal."""

TOO_MUCH_AS_YAML = {
    "merged aliases": f"task: bad\nmetadata:\n  l0: &l0 {{a: 1, b: 2, c: 3}}\n{MERGED}"
}
TOO_MUCH = {
    "loops in a loop": WRITTEN | {"doc_to_text": LONG_LOOP},
    "loops in the target": LAST_WORD | {"doc_to_target": EMPTY_LOOP},
    "loops in the choices": MULTIPLE_CHOICE | {"doc_to_choice": EMPTY_LOOP},
    "loops at the last question": WRITTEN | {"doc_to_text": LAST_ONLY},
    "3 GB of text": WRITTEN | {"doc_to_text": THREE_GB},
    "3 GB in a rolling text": ROLLING | {"doc_to_target": THREE_GB},
    "a text that doubles": WRITTEN | {"doc_to_text": DOUBLING},
    "a power of a power": WRITTEN | {"doc_to_text": "{{ 9 ** (9 ** 9) }}"},
    "paragraphs without end": WRITTEN | {"doc_to_text": "{{ lipsum(n=99999999) }}"},
    "choices without end": MULTIPLE_CHOICE
    | {"doc_to_choice": "{{ ['ab'] * 999999999 }}"},
}
"""Fields of files that are refused without help, or at the limits of a trial."""


def write_text(folder, text):
    """The reference of a task file of this text, and its question."""
    (folder / "bad.jsonl").write_text(
        json.dumps(
            {
                "question": "what",
                "choices": ["a", "b"],
                "label": 0,
            }
        )
        + "\n"
    )
    (folder / "bad.yaml").write_text(text, encoding="utf-8")
    return f"file:{folder / 'bad.yaml'}"


def in_place_of_yaml(folder):
    """The reference of a task file that nobody ever writes to."""
    os.mkfifo(folder / "bad.yaml")
    return f"file:{folder}"


def nested_data(folder):
    """The reference of a task whose question is a nest of lists."""
    (folder / "bad.jsonl").write_text(
        '{"question": ' + "[" * 200_000 + "]" * 200_000 + "}\n"
    )
    return write_task(folder, "bad", **WRITTEN)


def packed_data(folder):
    """The reference of a task with a small Parquet file that unpacks to 8 GB."""
    texts = pyarrow.DictionaryArray.from_arrays([0] * 8_000, ["a" * 1_000_000])
    rows = pyarrow.table({"question": texts, "choices": [["a"]] * 8_000})
    pyarrow.parquet.write_table(
        rows,
        folder / "bad.parquet",
        store_schema=False,
    )
    data = {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "bad.parquet"}},
    }
    return write_task(folder, "bad", **WRITTEN | data)
