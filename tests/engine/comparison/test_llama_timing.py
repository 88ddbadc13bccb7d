"""Files of a run's models timed in llama.cpp, and a program that is asked line by line."""

from dataclasses import replace

import pytest

from sparsedash.catalog import export_forms
from sparsedash.engine.comparison.llama_timing import time_files
from sparsedash.engine.models.fresh_process import talking_to
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import ExportError, JobError
from sparsedash.schema.pair_records import TimingSettings
from tests.engine.comparison.conftest import settings_of
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.factories import PRUNED, answered

REQUEST = TimingSettings(
    dense="-",
    sparse="-",
    n_prompt=8,
    n_decode=2,
    least_rounds=3,
    most_s=1,
    n_threads=1,
    runtime="llama.cpp",
)


def test_every_model_of_a_run_is_timed_beside_dense_in_16_bits(store, tmp_path):
    pytest.importorskip("llama_cpp_py_sync")
    text = write_jsonl(tmp_path / "passages.jsonl", passages(60))
    plain = settings_of(
        write_tiny_gguf(tmp_path / "tiny.gguf"),
        text,
        sparsities=(500,),
    )
    run = pipeline.run(replace(plain, prompts=(), quantise=("q8_0",)), store)
    model_cache = ModelCache()
    requests = [replace(REQUEST, dense=run.dense, sparse=key) for key in run.sparse]
    timings = [time_files(request, store, model_cache) for request in requests]
    again = [time_files(request, store, model_cache) for request in requests]
    assert again == timings and not list(store.folder.glob("**/*.gguf"))
    dense_8, sparse, sparse_8 = timings
    assert [timing.weights for timing in timings] == ["Q8_0", "F16", "Q8_0"]
    assert (
        dense_8.dense_bytes
        == sparse.dense_bytes
        > sparse.sparse_bytes
        > sparse_8.sparse_bytes
    )
    for timing in timings:
        phases = [("prefill", 1), ("decode", 1), ("prefill", 8), ("decode", 8)]
        assert [(phase.phase, phase.batch) for phase in timing.phases] == phases
        assert all(
            min(phase.dense_s) > 0 and len(phase.dense_s) == len(phase.sparse_s) >= 3
            for phase in timing.phases
        )
    assert dense_8.timed("prefill").ceiling == 1 < sparse.timed("prefill").ceiling
    assert 1 < sparse.timed("decode").ceiling < sparse_8.timed("decode").ceiling


def test_where_llama_cpp_is_not_installed_nothing_is_loaded(store, monkeypatch):
    monkeypatch.setattr(export_forms, "find_spec", lambda name: None)
    store.put(
        "s",
        answered(
            "s",
            1,
            model="owner/name",
            pruned=PRUNED,
        ),
    )
    with pytest.raises(JobError, match="cannot be timed in llama"):
        time_files(replace(REQUEST, sparse="s"), store, ModelCache())


def test_a_program_that_ends_before_it_answers_is_an_error_with_its_last_line(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "print(input().upper(), flush=True)\nraise SystemExit('no more')"
    )
    with talking_to(str(program), [], failed="It failed") as ask:
        assert ask("once") == "ONCE"
        with pytest.raises(ExportError, match="It failed: exit code 1: no more"):
            ask("twice")
