"""The recipe and the card of an export: the run's model, its loss as on the pages, its licence."""

import json
import shutil
from dataclasses import replace

import pytest
from gguf import GGUFWriter
from huggingface_hub import ModelCard

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.engine.export.recipe import base_licence
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.locating import Source
from sparsedash.engine.run import pipeline
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.verdicts import limits_sentence, loss_cells, verdict_sign
from sparsedash.schema.records import Record
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.stored_results import StoredResults
from tests.engine.export.conftest import exported, run_in, run_settings
from tests.engine.tiny import save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.factories import RECORD


def test_the_card_of_an_export_says_what_was_lost_as_the_pages_do(run, tmp_path):
    limits = Tolerance(ratio=3.0, points=5.0)
    export = exported(
        run,
        0,
        "padded",
        tmp_path / "out",
        tolerance=Tolerance(ratio=3.0, points=5.0),
    )
    results = run_results(StoredResults(run[0]), run[2], limits)
    judged = next(
        result
        for result in results.sparse_models
        if result.record.key == export.settings.sparse
    )
    assert judged.verdict.perplexity.level > 0.975, (
        "three models share the chance of error"
    )
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.tags == ["pruned", "width-pruning"]
    assert card.data.base_model is None, (
        "a folder of somebody's own is no model of the hub"
    )
    assert card.data.license == "unknown"
    (factor, interval), (change, accuracy), *_ = (
        cell.text.split("\n") for cell in loss_cells(judged)[:2]
    )
    for part in (
        f"| {factor} | {interval} |",
        f"| {change} points | {accuracy} |",
        f"**{verdict_sign(judged.verdict)}**",
        limits_sentence(judged.verdict, limits),
        "20 passages",
        "p\u00a0=\u00a0",
        "Licence of the base | licence unknown",
        "Proven by transformers",
    ):
        assert part in card.text
    loss, _, forgotten = card.text.partition("| kind of text |")
    assert "95 %" not in loss and "| Stories | 0." in forgotten
    assert str(tmp_path.parent) not in str(card)


def test_the_recipe_is_enough_to_make_the_same_and_names_no_folder_of_this_machine(
    run, tmp_path
):
    store, _, finished = run
    export = exported(run, 0, "padded", tmp_path / "out")
    text = (tmp_path / "out" / "recipe.json").read_text()
    assert str(tmp_path.parent) not in text
    recipe = json.loads(text)
    pruned = store.get(Record, finished.sparse[0]).pruned
    assert (
        recipe["widths"]
        == list(pruned.widths)
        == [len(kept) for kept in recipe["kept_channels"]]
    )
    assert recipe["export"] == export.key
    assert recipe["base"]["identity"] == finished.model_identity
    # Half of what `best` was calibrated on are plain stories.
    assert recipe["calibration_identity"].startswith(
        f"{finished.corpora['calibration']}+0.5 of "
    )
    again = exported((store, ModelCache(), finished), 0, "padded", tmp_path / "two")
    assert again.files["model.safetensors"] == export.files["model.safetensors"]


def test_the_base_is_the_model_of_this_run(store, passage_file, tmp_path):
    first = save_tiny(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    (first / "README.md").write_text("---\nlicense: mit\n---\n")
    model_cache = ModelCache()
    settings = [
        run_settings(place, passage_file, ("wanda-channels",))
        for place in (first, second)
    ]
    runs = [pipeline.run(one, store, model_cache=model_cache) for one in settings]
    assert runs[0].sparse == runs[1].sparse, (
        "the test needs a record that both runs share"
    )
    exports = [
        exported((store, model_cache, run), 0, "padded", tmp_path / run.key)
        for run in runs
    ]
    assert [export.model for export in exports] == [str(first), str(second)]
    cards = [ModelCard.load(tmp_path / run.key / "README.md") for run in runs]
    assert [card.data.license for card in cards] == ["mit", "unknown"]
    assert (
        "# `second`, pruned by" in cards[1].text and "licence unknown" in cards[1].text
    )
    assert (
        "first"
        not in str(cards[1]) + (tmp_path / runs[1].key / "recipe.json").read_text()
    )


def test_a_quantised_source_is_named_with_its_type_and_size(
    store, passage_file, tmp_path
):
    base = write_tiny_gguf(tmp_path / "base.gguf", quantised="Q8_0")
    run = run_in(store, run_settings(base, passage_file, ("magnitude",)))
    exported(run, 0, "padded", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "weights come from a Q8_0 GGUF file" in text
    assert (
        f"The file of the dense model takes {base.stat().st_size / 1e6:,.1f} MB" in text
    )


def stated_licence(model, folder):
    source = Source(
        reference=model,
        folder=folder,
        identity="sha256:0",
        shape=shipped_shape("smollm2-135m"),
    )
    return base_licence(
        source,
        replace(
            RECORD,
            model=model,
            model_identity="sha256:0",
        ),
    )


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: mit", "mit"),
        ("license: [mit, gpl]", ""),
        ("1: 2\nignore_metadata_errors: true\nlicense: mit", "mit"),
        ("license: " + "[" * 5000, ""),
        ("- license", ""),
        ("license: !!python/object/apply:os.getcwd []", ""),
        ('license: "mit\\nbase_model: evil"', ""),
    ],
)
def test_the_licence_is_what_the_base_s_own_card_states_whatever_that_holds(
    metadata, licence, tmp_path
):
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\nA model.")
    assert stated_licence(str(tmp_path), tmp_path) == licence


@pytest.mark.parametrize(
    ("stated", "licence"),
    [(b"mit", "mit"), (b"\xff\xfe", ""), (b"a\nb", ""), (None, "")],
)
def test_the_licence_of_a_gguf_file_is_its_own_field(stated, licence, tmp_path):
    writer = GGUFWriter(tmp_path / "base.gguf", "llama")
    if stated is not None:
        writer.add_key_value("general.license", stated, 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert stated_licence(str(tmp_path / "base.gguf"), tmp_path) == licence
