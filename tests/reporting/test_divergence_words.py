"""Divergence in llama.cpp's words."""

import json
from dataclasses import replace

from sparsedash.reporting.divergence_words import (
    ModelDivergence,
    divergence_line,
    divergence_rows,
    divergence_table,
    divergences_document,
    figures_document,
)
from sparsedash.reporting.judged_words import divergence_parts
from sparsedash.reporting.wording import NBSP
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.divergence_figures import divergence_figures, judge_perplexity
from tests.llama_files import drawn_models
from tests.stats.test_divergence_figures import blocks_of

BLOCKS = blocks_of(*drawn_models())
FIGURES = divergence_figures(BLOCKS)


def test_every_figure_has_its_unit_and_its_error():
    rows = {name: (value, error) for name, value, error in divergence_rows(FIGURES)[1:]}
    value, error = rows["Mean KLD"]
    assert (len(value), len(error)) == (8, 8)
    assert rows["99.9 % KLD"] == ("too few tokens", "")
    assert rows["Same top p"][0].endswith(" %")
    assert rows["RMS Δp"][1].endswith(" %")
    assert float(rows["PPL(Q)/PPL(base)"][0]) > 1


def test_the_table_and_the_line_name_the_text():
    table = divergence_table(FIGURES)
    assert (
        "On 1,240 tokens of held-out text of the built-in mix; ± over 40 blocks"
        in table.caption
    )
    assert len(table.rows) == len(divergence_rows(FIGURES)) - 1
    line = divergence_line(FIGURES)
    assert line.startswith("From dense on 1,240 tokens: mean KLD 0.0")
    assert "99.0 % KLD" in line and line.endswith(" %.")


def test_an_undecided_verdict_says_what_would_settle_it():
    tolerance = Tolerance(ratio=1.05)
    loss = judge_perplexity({"q4": BLOCKS[:35]}, tolerance, {})["q4"]
    model = ModelDivergence(name="q4", figures=FIGURES, loss=loss)
    parts = divergence_parts([model], "Text: t.kld.", tolerance)
    assert parts[1].startswith("q4 ")
    assert "(limit 1.05 ×)" in parts[1]
    assert parts[2] == "Text: t.kld."
    undecided = replace(model, loss=replace(loss, verdict="undecided", needed=400))
    sentence = divergence_parts([undecided], "", tolerance)[1]
    assert sentence.endswith("About 400 blocks would settle it.")
    decided = replace(model, loss=replace(loss, verdict="beyond", needed=None))
    assert "settle" not in divergence_parts([decided], "", tolerance)[1]
    unknown = replace(model, loss=None)
    assert divergence_parts([unknown], "", tolerance)[1] == ""


def test_several_models_stand_in_one_table_with_their_sizes():
    tokens, base, near = drawn_models(noise=0.2)
    closer = divergence_figures(blocks_of(tokens, base, near))
    models = [
        ModelDivergence(name="q4", figures=FIGURES, size_bytes=380_000_000),
        ModelDivergence(name="q8", figures=closer),
    ]
    (head, first, second) = divergence_parts(models, "", Tolerance())[0]
    assert (first[0], first[1], second[:2]) == ("q8", "", ["q4", f"380{NBSP}MB"])
    assert dict(zip(head, first, strict=True))["same top p"].endswith(" %")
    document = json.loads(json.dumps(divergences_document(models, "", Tolerance())))
    assert document["verdict"] == "not judged"
    assert document["models"][0]["size_bytes"] == 380_000_000


def test_the_document_is_plain():
    document = json.loads(json.dumps(figures_document(FIGURES)))
    assert document["kl"]["value"] == FIGURES.kl.value
    assert list(document["kl_quantiles"]) == ["0.5", "0.9", "0.95", "0.99", "0.999"]
    assert document["n_blocks"] == 40


def test_what_a_base_file_cuts_off_is_counted_beside_its_figures():
    model = ModelDivergence(name="q4", figures=FIGURES, n_cut=2)
    text = "Text: t.kld."
    cut = divergence_parts([model], text, Tolerance())[2]
    assert cut.startswith("q4: 2 right tokens of 1,240, 16 nats or more below")
    assert cut.endswith("Above 0.1 % nothing is within.")
    few = divergence_parts([replace(model, n_cut=1)], text, Tolerance())[2]
    assert few.endswith("perplexity and KLD are at least these.")
    assert divergence_parts([replace(model, n_cut=0)], text, Tolerance())[2] == text
