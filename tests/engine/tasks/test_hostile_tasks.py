"""Task files that would take all time or memory: refused by field, or at the limits of a process of
their own.
"""

import resource
import time

import pytest

from sparsedash.engine.tasks import harness
from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.schema.errors import CorpusError
from sparsedash.storage.local_machine import peak_memory_bytes
from tests.engine.conftest import passages
from tests.engine.tasks.conftest import load_written
from tests.engine.tasks.hostile_tasks import (
    REFUSED_AS_YAML,
    REFUSED_BY_FIELD,
    TOO_MUCH,
    TOO_MUCH_AS_YAML,
    in_place_of_yaml,
    nested_data,
    packed_data,
    write_text,
)
from tests.engine.tasks.task_folder import MULTIPLE_CHOICE, WRITTEN, write_task

LIMITS = "takes more than 20 s or 2 GB before its first question"
FILES = {
    **{
        name: lambda folder, config=config: write_task(
            folder, "bad", passages(3), **config
        )
        for name, config in TOO_MUCH.items()
    },
    **{
        name: lambda folder, text=text: write_text(folder, text)
        for name, text in TOO_MUCH_AS_YAML.items()
    },
    "nested data": nested_data,
    "packed data": packed_data,
}


@pytest.mark.parametrize(
    ("change", "why"),
    REFUSED_BY_FIELD.values(),
    ids=REFUSED_BY_FIELD,
)
def test_a_field_that_holds_what_it_may_not_is_named(change, why, tmp_path):
    with pytest.raises(CorpusError, match=why) as refused:
        load_written(tmp_path, "bad", 3, **change)
    assert len(refused.value.message) < 400 and refused.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "why"),
    REFUSED_AS_YAML.values(),
    ids=REFUSED_AS_YAML,
)
def test_what_is_no_plain_yaml_of_a_task_is_refused_in_a_sentence(text, why, tmp_path):
    with pytest.raises(CorpusError, match=why) as refused:
        load_tasks([write_text(tmp_path, text)], None, None)
    assert len(refused.value.message) < 400 and refused.value.message.isprintable()


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    with pytest.raises(
        CorpusError, match=r"bad\.yaml is not a regular file of at most 1 MB"
    ):
        load_tasks([in_place_of_yaml(tmp_path)], None, None)


def test_data_that_cannot_be_read_are_refused_with_the_reason(tmp_path):
    reference = write_task(
        tmp_path,
        "bad",
        passages(3),
        **WRITTEN,
    )
    (tmp_path / "bad.jsonl").write_text('{"question": ')
    with pytest.raises(CorpusError, match="JSON parse error"):
        load_tasks([reference], None, None)


def test_targets_by_number_by_text_and_of_several_are_accepted(tmp_path):
    for target in ("label", "{{ choices[1] }}", "{{ [0, 1] }}"):
        reference = write_task(
            tmp_path,
            "good",
            passages(3),
            **MULTIPLE_CHOICE | {"doc_to_target": target},
        )
        assert load_tasks([reference], None, None)[0].n_questions == 3


def test_the_process_says_what_is_refused_and_nothing_of_what_is_not(
    fresh_process, tmp_path
):
    (task,) = load_written(tmp_path, "good", 3, **MULTIPLE_CHOICE)
    assert task.n_questions == 3
    with pytest.raises(
        CorpusError,
        match=r"^bad\.yaml: num_fewshot must be a whole number, 0 to 100, not -1\.$",
    ):
        load_written(tmp_path, "bad", 3, **WRITTEN | {"num_fewshot": -1})


def test_a_template_without_end_stops_at_the_limits_and_what_it_leaves_is_deleted(
    fresh_process, tmp_path, monkeypatch
):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    reference = write_task(
        tmp_path,
        "bad",
        passages(3),
        **TOO_MUCH["3 GB of text"],
    )
    with pytest.raises(CorpusError, match=LIMITS) as refused:
        load_tasks([reference], None, None)
    assert "--task-limit" in refused.value.advice
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_no_file_takes_more_than_its_limits_or_touches_this_process(
    name, fresh_process, tmp_path
):
    reference = FILES[name](tmp_path)
    before = peak_memory_bytes()
    started = time.monotonic()
    with pytest.raises(CorpusError) as refused:
        load_tasks([reference], None, None)
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = time.monotonic() - started
    print(
        f"{name}: {took:.1f} s, peak of all so far {child.ru_maxrss / 1e6:.2f} GB: {refused.value}"
    )
    assert took < 6 * harness._TRIAL_S
    assert child.ru_maxrss * 1000 < 4e9
    assert peak_memory_bytes() - before < 50e6
