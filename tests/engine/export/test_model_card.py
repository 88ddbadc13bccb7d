"""The card and the recipe of an export: the run's model, its loss as on the pages, foreign words as
text.
"""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from gguf import GGUFWriter
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from sparsedash.engine.export.model_card import (
    BUILTIN_BASE,
    CardFacts,
    base_licence,
    hub_name,
    model_card,
    public_name,
)
from sparsedash.engine.models.gguf_writing import WrittenFiles
from sparsedash.engine.models.loading import ModelShelf, Source
from sparsedash.engine.run import pipeline
from sparsedash.reporting.run_results import StoredResults, judge, measure, run_results
from sparsedash.reporting.verdicts import limits_sentence, loss_cells, verdict_sign
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.records import Record
from sparsedash.schema.tolerance import Tolerance
from tests.engine.export.conftest import exported, run_settings
from tests.engine.tiny import save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.factories import PROOF, PRUNED, RECORD

HOSTILE = [
    "a`b``c```d",
    "a | b \\| c \\\\| <img src=x onerror=alert(1)>",
    "[click](https://evil.example) ![](https://evil.example/x.png) https://evil.example",
    "a\n\n# Approved by everybody\n\n---\nlicense: mit\n---\n",
    "name: {evil: true}\nbase_model: owner/evil\n...\n--- !!python/object:x",
    "'\"; rm -rf ~ #",
    "\u202egnp.exe\x1b[2J\u2028x",
    "&lt;b&gt; &#96; *b* __b__ ~~b~~ # h",
    "[x](javascript:alert(1)) <javascript:alert(1)> **",
]
DENSE = replace(RECORD, key="d", pruned=None)


def one_line(word):
    """As settings and licences take it; records and files are anybody's."""
    return "".join(filter(str.isprintable, word)).strip()[:59]


def judged_on_tasks(sparse, name):
    """The verdict on a model that loses on a task of this name, by a limit of its own, and on
    another not judged.
    """
    (judged,) = judge([measure(DENSE, sparse)], Tolerance())
    lost = replace(
        judged.verdict.perplexity,
        measure="accuracy",
        value=0.5,
        most=0.05,
        verdict="beyond",
        task=name,
    )
    return replace(judged, verdict=replace(judged.verdict, tasks=(lost,), unjudged=(name,)))


def facts(word, folder, form="gguf"):
    """A card's facts with this word wherever one comes from a model, a file, a task or a
    licence.
    """
    line = one_line(word)
    calibration = replace(PRUNED.calibration, corpus=f"file:{line}")
    pruned = replace(
        PRUNED, calibration=calibration, method=replace(PRUNED.method, compensation="least-squares")
    )
    sparse = replace(
        RECORD, model=word, model_identity=f"sha256:{word}", corpus=f"file:{word}", pruned=pruned
    )
    folder.joinpath("README.md").write_text(
        f"---\n{yaml.dump({'license': line})}---\n", encoding="utf-8"
    )
    return CardFacts(
        settings=ExportSettings(dense="d", sparse="k", form=form),
        source=Source(reference=word, folder=folder, identity=f"sha256:{word}"),
        dense=DENSE,
        sparse=sparse,
        judged=judged_on_tasks(sparse, word),
        tolerance=Tolerance(),
        proof=PROOF,
        written=WrittenFiles(layout="one width", size=2, base_size=3, file=f"{word}.gguf"),
    )


def skeleton(text):
    """The card's markup without what stands in it."""
    tokens = MarkdownIt().enable("table").parse(text)
    flat = [each for token in tokens for each in (token, *(token.children or []))]
    return [(token.type, token.tag) for token in flat if token.type not in ("text", "softbreak")]


@pytest.mark.parametrize("word", HOSTILE)
def test_no_word_of_a_model_a_file_a_task_or_a_licence_is_markup_or_metadata(word, tmp_path):
    card, plain = (ModelCard(model_card(facts(each, tmp_path))) for each in (word, "plain"))
    assert skeleton(card.text) == skeleton(plain.text)
    assert not {kind for kind, _ in skeleton(card.text)} & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
    }
    assert card.data.to_dict() == plain.data.to_dict() | {
        "license": one_line(word) if len(one_line(word)) < 60 else "unknown"
    }
    assert not re.search("[\u202e\x1b\u2028]", card.text)


def test_the_card_of_an_export_says_what_was_lost_as_the_pages_do(run, tmp_path):
    limits = Tolerance(ratio=3.0, points=5.0)
    made = exported(run, 0, "padded", tmp_path / "out", tolerance=Tolerance(ratio=3.0, points=5.0))
    found = run_results(StoredResults(run[0]), run[2], limits)
    judged = next(each for each in found.judged if each.record.key == made.settings.sparse)
    assert judged.verdict.perplexity.level > 0.975, "three models share the chance of error"
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.tags == ["pruned", "width-pruning"]
    assert card.data.base_model is None, "a folder of somebody's own is no model of the hub"
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


def test_the_recipe_is_enough_to_make_the_same_and_names_no_folder_of_this_machine(run, tmp_path):
    store, _, finished = run
    made = exported(run, 0, "padded", tmp_path / "out")
    text = (tmp_path / "out" / "recipe.json").read_text()
    assert str(tmp_path.parent) not in text
    recipe, pruned = json.loads(text), store.get(Record, finished.sparse[0]).pruned
    assert (
        recipe["widths"] == list(pruned.widths) == [len(kept) for kept in recipe["kept_channels"]]
    )
    assert recipe["export"] == made.key
    assert recipe["base"]["identity"] == finished.model_identity
    # Half of what `best` was calibrated on are plain stories.
    assert recipe["calibration_identity"].startswith(f"{finished.corpora['calibration']}+0.5 of ")
    again = exported((store, ModelShelf(), finished), 0, "padded", tmp_path / "two")
    assert again.files["model.safetensors"] == made.files["model.safetensors"]


@pytest.mark.parametrize(
    ("reference", "identity", "public", "hub"),
    [
        ("/home/anna/models/tiny", "sha256:0", "tiny", ""),
        ("file:/home/anna/texts/a.jsonl", "sha256:0", "file:a.jsonl", ""),
        ("builtin:smollm2-135m", "sha256:0", "builtin:smollm2-135m", BUILTIN_BASE),
        ("owner/name@main", f"owner/name@{'a' * 40}", "owner/name@main", "owner/name"),
        ("owner/name", "sha256:0", "owner/name", ""),
    ],
)
def test_a_public_name_has_no_folder_and_only_what_came_from_the_hub_is_a_base_there(
    reference, identity, public, hub
):
    assert public_name(reference) == public
    assert hub_name(replace(RECORD, model=reference, model_identity=identity)) == hub


def test_the_base_is_the_model_of_this_run(store, passage_file, tmp_path):
    first = save_tiny(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    (first / "README.md").write_text("---\nlicense: mit\n---\n")
    shelf = ModelShelf()
    settings = [run_settings(place, passage_file, ("wanda-channels",)) for place in (first, second)]
    runs = [pipeline.run(each, store, shelf=shelf) for each in settings]
    assert runs[0].sparse == runs[1].sparse, "the test needs a record that both runs share"
    found = [exported((store, shelf, run), 0, "padded", tmp_path / run.key) for run in runs]
    assert [made.model for made in found] == [str(first), str(second)]
    cards = [ModelCard.load(tmp_path / run.key / "README.md") for run in runs]
    assert [card.data.license for card in cards] == ["mit", "unknown"]
    assert "# `second`, pruned by" in cards[1].text and "licence unknown" in cards[1].text
    assert "first" not in str(cards[1]) + (tmp_path / runs[1].key / "recipe.json").read_text()


def test_a_quantised_source_is_named_with_its_type_and_size(store, passage_file, tmp_path):
    base = write_tiny_gguf(tmp_path / "base.gguf", quantised="Q8_0")
    run = pipeline.run(run_settings(base, passage_file, ("magnitude",)), store, shelf=ModelShelf())
    exported((store, ModelShelf(), run), 0, "padded", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "weights come from a Q8_0 GGUF file" in text
    assert f"The file of the dense model takes {base.stat().st_size / 1e6:,.1f} MB" in text


def stated_licence(model, folder):
    source = Source(reference=model, folder=folder, identity="sha256:0")
    return base_licence(source, replace(RECORD, model=model, model_identity="sha256:0"))


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
    ("stated", "licence"), [(b"mit", "mit"), (b"\xff\xfe", ""), (b"a\nb", ""), (None, "")]
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
