"""GGUF files: a width for each block where llama.cpp has a graph for it, one width elsewhere, proven by llama.cpp."""

import pytest
from gguf import GGUFReader

from sparsedash.catalog.families import PER_LAYER
from sparsedash.engine.export.export import export_model
from sparsedash.schema.errors import ExportError, SettingsError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from tests.engine.export.conftest import asked
from tests.engine.tiny import save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf

pytest.importorskip("llama_cpp_py_sync")


@pytest.fixture(scope="session")
def gguf_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    return lambda family: write_tiny_gguf(folder / f"{family}.gguf", family=family)


@pytest.mark.parametrize("family", PER_LAYER)
def test_every_block_keeps_its_own_width_and_llama_cpp_computes_the_same_logits(
    family, gguf_of, finished_run, tmp_path
):
    store, shelf, run = finished_run(gguf_of(family))
    made = export_model(asked(run, 0, "gguf", tmp_path / "out"), store, shelf, ignore_steps)
    record = store.get(Record, run.sparse[0])
    assert len(set(record.pruned.widths)) > 1, "the test needs blocks of different widths"
    reader = GGUFReader(tmp_path / "out" / "out.gguf")
    assert reader.fields["general.architecture"].contents() == PER_LAYER[family]
    assert reader.fields[f"{PER_LAYER[family]}.feed_forward_length"].contents() == list(record.pruned.widths)
    assert made.proof.runtime == "llama.cpp"
    assert made.proof.n_run == made.proof.n_verdicts == 20
    assert made.proof.logit_difference < 1e-4


def test_a_model_of_one_width_keeps_its_own_architecture(gguf_of, finished_run, tmp_path):
    store, shelf, run = finished_run(gguf_of("llama"))
    made = export_model(asked(run, 1, "gguf", tmp_path / "out"), store, shelf, ignore_steps)
    reader = GGUFReader(tmp_path / "out" / "out.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.feed_forward_length"].contents() == 56
    assert made.proof.logit_difference < 1e-4


@pytest.mark.parametrize("weights", ["float16", "q8_0"])
def test_rounded_weights_are_those_that_llama_cpp_reads(weights, gguf_of, finished_run, tmp_path):
    store, shelf, run = finished_run(gguf_of("llama"))
    whole = export_model(asked(run, 0, "gguf", tmp_path / "whole"), store, shelf, ignore_steps)
    made = export_model(asked(run, 0, "gguf", tmp_path / "out", weights=weights), store, shelf, ignore_steps)
    assert made.n_bytes < whole.n_bytes
    assert made.proof.n_meant >= 18
    again = export_model(asked(run, 0, "gguf", tmp_path / "again"), store, shelf, ignore_steps)
    assert again.files["recipe.json"] != "", "rounding the model in memory has not changed the next export"
    assert again.proof.logit_difference < 1e-4


@pytest.mark.parametrize("weights", ["float32", "q8_0"])
def test_a_bfloat16_run_is_proven_by_what_its_file_holds(weights, gguf_of, finished_run, tmp_path):
    store, shelf, run = finished_run(gguf_of("llama"), dtype="bfloat16")
    (gguf_of("llama").parent / "NOTICE.md").write_text("Keep this.")
    made = export_model(asked(run, 0, "gguf", tmp_path / "out", weights=weights), store, shelf, ignore_steps)
    assert made.proof.logit_difference <= (1e-4 if weights == "float32" else 0.3)
    assert made.proof.n_allowed == (0 if weights == "float32" else 2)
    assert (tmp_path / "out" / "NOTICE.md").read_text() == "Keep this."


def test_a_base_of_safetensors_needs_a_dense_gguf_and_takes_one_of_full_weights(gguf_of, finished_run, tmp_path):
    dense = gguf_of("qwen2")
    folder = save_tiny(tmp_path / "tiny", "qwen2")
    store, shelf, run = finished_run(folder)
    with pytest.raises(SettingsError, match="dense GGUF: '' is not possible; allowed: a GGUF file of the dense model"):
        export_model(asked(run, 0, "gguf", tmp_path / "out"), store, shelf, ignore_steps)
    request = asked(run, 0, "gguf", tmp_path / "out", dense_gguf=str(dense))
    assert export_model(request, store, shelf, ignore_steps).proof.logit_difference < 1e-4
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=5, family="qwen2")
    with pytest.raises(ExportError, match=r"other\.gguf is a file of another model: its weights differ"):
        export_model(asked(run, 0, "gguf", tmp_path / "two", dense_gguf=str(other)), store, shelf, ignore_steps)
    assert not (tmp_path / "two").exists()


def test_a_quantised_file_stands_in_for_no_other_model(gguf_of, finished_run, tmp_path):
    store, shelf, run = finished_run(gguf_of("qwen2"))
    export_model(asked(run, 1, "gguf", tmp_path / "q8", weights="q8_0"), store, shelf, ignore_steps)
    folder = save_tiny(tmp_path / "tiny", "qwen2")
    store, shelf, run = finished_run(folder)
    request = asked(run, 0, "gguf", tmp_path / "out", dense_gguf=str(tmp_path / "q8" / "q8.gguf"))
    with pytest.raises(SettingsError, match=r"q8\.gguf.* is quantised \(Q8_0\)"):
        export_model(request, store, shelf, ignore_steps)
