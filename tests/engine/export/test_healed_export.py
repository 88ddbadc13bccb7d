"""A healed model is exported in every form: its projections into the inner width and its norms are
others as well.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.gguf_names import ARCHITECTURES
from sparsedash.engine.healing import healing
from sparsedash.engine.models.gguf_quantising import write_quantised
from sparsedash.engine.models.gguf_writing import write_gguf
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.schema.errors import ExportError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store
from tests.engine.export.conftest import exported, run_in, run_settings
from tests.engine.tiny import load_folder, save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf


@pytest.fixture
def healed_run(passage_file, tmp_path, monkeypatch):
    monkeypatch.setattr(healing, "RATE", 1e-2)

    def made(model, methods=("least-squares",)):
        settings = replace(run_settings(model, passage_file, methods), heal_steps=(4,))
        finished = run_in(Store(tmp_path / "data"), settings)
        store, _, run = finished
        assert store.get(Record, run.sparse[0]).pruned.healed.kept_step
        return finished

    return made


@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", "least-squares"), ("gpt2", "best"), ("phi3", "best")],
)
def test_the_files_are_proven(family, method, healed_run, tmp_path):
    finished = healed_run(save_tiny(tmp_path / "tiny", family), (method,))
    for form in ("padded" if method == "best" else "uniform", "masked"):
        proof = exported(finished, 0, form, tmp_path / form).proof
        assert (
            proof.holds
            and proof.n_run == proof.n_verdicts
            and proof.logit_difference <= 1e-4
        )
    card = (tmp_path / "masked" / "README.md").read_text()
    assert "healed 4 steps" in card and "held-out" in card


def test_a_gguf_file_is_proven(healed_run, tmp_path):
    pytest.importorskip("llama_cpp_py_sync")
    finished = healed_run(
        write_tiny_gguf(tmp_path / "tiny.gguf", family="llama"), ("best",)
    )
    assert exported(finished, 0, "gguf", tmp_path / "out").proof.logit_difference < 1e-4


@pytest.mark.parametrize("family", ["falcon", "gemma2", "gemma3", "gpt2", "qwen3"])
def test_every_norm_has_its_place_in_a_gguf_file(family, healed_run, tmp_path):
    dense = write_tiny_gguf(tmp_path / "tiny.gguf", family=family)
    store, model_cache, run = healed_run(dense)
    rebuilt = rebuild_model(
        store.get(Record, run.sparse[0]), store, ignore_steps, model_cache
    )
    write_gguf(
        tmp_path / "out.gguf",
        dense,
        rebuilt.sparse,
        "float32",
        is_base=True,
        require_room=lambda n_bytes: None,
    )
    again = load_folder(tmp_path / "out.gguf", store)
    norms = dict(again.model.named_parameters())
    for name, norm in rebuilt.sparse.others.items():
        assert norms[name].tolist() == pytest.approx(norm.tolist(), abs=1e-6)


def test_a_file_whose_tensors_have_no_names_here_is_neither_healed_nor_quantised(
    healed_run, tmp_path, monkeypatch
):
    dense = write_tiny_gguf(tmp_path / "tiny.gguf", family="gpt2")
    store, model_cache, run = healed_run(dense)
    rebuilt = rebuild_model(
        store.get(Record, run.sparse[0]), store, ignore_steps, model_cache
    ).sparse
    monkeypatch.delitem(ARCHITECTURES, "gpt2")
    options = {"is_base": True, "require_room": lambda n_bytes: None}
    for weights, healed in (
        ("float32", rebuilt),
        ("q4_k_m", replace(rebuilt, others={})),
    ):
        with pytest.raises(ExportError, match="gpt2 files are not known here"):
            write_quantised(
                tmp_path / "out.gguf",
                dense,
                healed,
                weights,
                **options,
            )
    assert not (tmp_path / "out.gguf").exists()
