"""The model card of an export: foreign words are text, and no folder of this machine is named."""

import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.model_card import model_card
from sparsedash.reporting.model_results import judge, measure
from sparsedash.schema.card_facts import BUILTIN_BASE, CardFacts, hub_name, public_name
from sparsedash.schema.export_settings import ExportSettings, WrittenFiles
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from tests.factories import MIXTURE, MIXTURE_SHAPE, PROOF, PRUNED, RECORD

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
    return replace(
        judged,
        verdict=replace(
            judged.verdict,
            tasks=(lost,),
            unjudged=(name,),
        ),
    )


def card_of(word, pruned=PRUNED):
    """A card with this word wherever one comes from a model, a file, a task or a licence."""
    line = one_line(word)
    calibration = replace(pruned.calibration, corpus=f"file:{line}")
    refitted = replace(pruned.method, compensation="least-squares")
    pruned = replace(
        pruned,
        calibration=calibration,
        spec=replace(pruned.spec, method=refitted),
    )
    sparse = replace(
        RECORD,
        model=word,
        model_identity=f"sha256:{word}",
        corpus=f"file:{word}",
        pruned=pruned,
    )
    facts = CardFacts(
        settings=ExportSettings(
            dense="d",
            sparse="k",
            form="gguf",
        ),
        run=None,
        dense=DENSE,
        sparse=sparse,
        proof=PROOF,
        written=WrittenFiles(
            layout="one width",
            size=2,
            base_size=3,
            file=f"{word}.gguf",
        ),
        licence=line,
        source_type="",
        source_bytes=0,
        shape=MIXTURE_SHAPE,
    )
    return ModelCard(model_card(facts, judged_on_tasks(sparse, word)))


def skeleton(text):
    """The card's markup without what stands in it."""
    tokens = MarkdownIt().enable("table").parse(text)
    flat = []
    for token in tokens:
        flat += [token, *(token.children or [])]
    return [
        (token.type, token.tag)
        for token in flat
        if token.type not in ("text", "softbreak")
    ]


@pytest.mark.parametrize("word", HOSTILE)
def test_no_word_of_a_model_a_file_a_task_or_a_licence_is_markup_or_metadata(word):
    card = card_of(word)
    plain = card_of("plain")
    assert skeleton(card.text) == skeleton(plain.text)
    assert not {kind for kind, _ in skeleton(card.text)} & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
    }
    assert card.data.to_dict() == plain.data.to_dict() | {"license": one_line(word)}
    assert not re.search("[\u202e\x1b\u2028]", card.text)


def test_of_a_mixture_the_card_counts_experts_and_active_weights():
    text = card_of("plain", MIXTURE).text
    assert "whole experts were removed, the same number of each mixture" in text
    assert "| Kept of the experts | 2 of 4 experts in 2 of 3 layers |" in text
    assert "| Widths |" not in text, "no MLP is narrower"
    narrower = SparseSpec(method_named("expert-channels"), 500)
    widths = {"expert_widths": (0, 8, 8), "dense_expert_widths": (0, 16, 16)}
    narrower = replace(MIXTURE, spec=narrower, experts=(), **widths)
    text = card_of("plain", narrower).text
    assert "pruned by 50.0 % of the experts' channels" in text
    assert "8 of 16 channels of each expert in 2 of 3 layers" in text
    assert "million weights, 0.1 million of them active; the base has" in text
    assert "expert-pruning" in card_of("plain", MIXTURE).data.tags
    assert "of the experts" not in card_of("plain").text


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
    assert (
        hub_name(
            replace(
                RECORD,
                model=reference,
                model_identity=identity,
            )
        )
        == hub
    )
