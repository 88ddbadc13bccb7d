"""The table that the shell prints, and the document that it is made of, for models that know nothing any more."""

import json
from dataclasses import replace

from sparsedash.reporting.run_reports import run_document
from sparsedash.shell.terminal import run_table
from tests.factories import RECORD, RUN, outcome

DENSE = replace(RECORD, pruned=None)


def test_a_perplexity_beyond_what_a_float_holds_is_null_in_the_document_and_in_words_in_the_table():
    hopeless = replace(RECORD, outcomes=tuple(outcome(i, log_likelihood=-1000.0) for i in range(2)))
    document = json.loads(json.dumps(run_document(RUN, DENSE, [hopeless]), allow_nan=False))
    assert document["sparse"][0]["word_perplexity"] is None
    head, dense, sparse = run_table(document)
    assert "beyond 10³⁰⁸" in sparse.replace("\u00a0", " ")
    assert len(head) == len(sparse) > len(dense)


def test_a_sparse_model_stands_with_what_was_measured_and_what_that_means():
    _, dense, sparse = run_table(run_document(RUN, DENSE, [RECORD]))
    assert sparse.split()[:4] == ["12.5", "%", "16.7%", "10.0%"]
    assert dense.split()[1:3] == ["0.0%", "0.0%"]


def test_a_run_without_sparse_models_has_a_table_all_the_same():
    assert len(list(run_table(run_document(RUN, DENSE, [])))) == 2
