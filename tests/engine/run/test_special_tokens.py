"""Tokenizers that append a token: no text that a model reads ends with it, and every answer is as without it."""

from dataclasses import replace

import pytest

from sparsedash.engine.comparison.continuation import continue_prompt
from sparsedash.engine.comparison.divergence import measure_divergence
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import SELF, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.export.conftest import asked
from tests.engine.tiny import save_tiny

NONE, BOS, EOS, BOTH = "$A", "<|end|> $A", "$A <|end|>", "<|end|> $A <|end|>"
PROMPT = "the lamp and the boat and"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, passage_file):
    """Gives the store, the shelf and the run of one model whose tokenizer has this template."""
    opened = []

    def run(template, **changes):
        folder = tmp_path_factory.mktemp("special")
        opened.append(Store(folder / "data"))
        settings = RunSettings(
            model=str(save_tiny(folder / "model", template=template)),
            methods=(MethodSettings(width_multiple=8),),
            sparsities_permille=(500,),
            calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=40, length=32),
            evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=12),
        )
        shelf = ModelShelf()
        return opened[-1], shelf, pipeline.run(replace(settings, **changes), opened[-1], shelf=shelf)

    yield run
    for store in opened:
        store.close()


def found(store, shelf, run):
    """All that depends on tokens: answers, layer errors, what is written after a prompt, and a divergence."""
    records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
    pruned = [(r.pruned.layer_errors, r.pruned.passage_errors, r.pruned.widths) for r in records if r.pruned]
    pair, cache = {"left": run.dense, "right": run.sparse[0]}, ModelPairCache(shelf)
    written = continue_prompt(ContinuationSettings(**pair, prompt=PROMPT, n_tokens=6), store, cache)
    apart = measure_divergence(DivergenceSettings(**pair, text=PROMPT), store, cache)
    return [r.outcomes for r in records], pruned, (written.left, written.right), (apart.opening, apart.places)


@pytest.mark.parametrize("corpus", ["a file", SELF])
@pytest.mark.parametrize(("plain", "appends"), [(NONE, EOS), (BOS, BOTH)])
def test_what_a_tokenizer_appends_changes_nothing(plain, appends, corpus, ran):
    own = {"calibration": CalibrationSettings(corpus=SELF, n_samples=20, length=32)} if corpus == SELF else {}
    assert found(*ran(appends, **own)) == found(*ran(plain, **own))


def test_what_a_tokenizer_prepends_stays(ran):
    assert found(*ran(BOS))[0] != found(*ran(NONE))[0]


def test_an_export_of_such_a_model_is_proven_by_its_own_tokenizer(ran, tmp_path):
    store, shelf, run = ran(BOTH)
    assert export_model(asked(run, 0, "padded", tmp_path / "out"), store, shelf, ignore_steps).proof.holds


def test_passages_that_are_too_long_are_counted_in_a_warning(ran, tmp_path):
    home, the = (" ".join([*["boat"] * 300, last]) for last in ("home", "the"))
    file = write_jsonl(tmp_path / "long.jsonl", [home, *passages(2), the])
    *_, run = ran(BOS, evaluation=EvaluationSettings(corpus=f"file:{file}"))
    (warning,) = (line for line in run.warnings if "context" in line)
    assert warning == "2 of 4 passages exceed the model's context: 90 words were dropped from the front."
