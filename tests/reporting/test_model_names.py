"""What the models of a run are called, alone and among those of other methods."""

from dataclasses import replace

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from tests.ui import specimens

MAGNITUDE = method_named("magnitude")
ZEROS = method_named("magnitude-weights")


def plain(text: str) -> str:
    return text.replace(wording.NBSP, " ")


def test_records_of_several_methods_are_told_apart():
    sparse = specimens.record([True], 125, MAGNITUDE)
    assert wording.record_name(sparse, several_methods=True) == "magnitude 12.5 %"
    assert wording.record_name(sparse, several_methods=False) == "12.5 %"
    assert wording.record_name(specimens.record([True]), several_methods=True) == "dense"


def test_a_run_names_its_records_as_they_name_themselves():
    settings = replace(specimens.SETTINGS, methods=(*specimens.SETTINGS.methods, MAGNITUDE))
    for asked in (specimens.SETTINGS, settings):
        run, records = specimens.run(asked)
        several = wording.has_several_methods(asked)
        assert wording.record_names(run) == [(r.key, wording.record_name(r, several)) for r in records]


def test_a_run_names_only_the_records_that_are_there():
    run, _ = specimens.run(finished=False, n_sparse=1)
    assert [name for _, name in wording.record_names(run)] == ["dense", "10 %"]


def test_a_line_is_named_by_its_method_where_there_are_several():
    assert wording.line_name(MAGNITUDE, several_methods=True) == "magnitude"
    assert wording.line_name(MAGNITUDE, several_methods=False) == "sparse"


def test_a_card_says_what_was_taken_and_of_what():
    assert plain(wording.card_name(MAGNITUDE, 200, several_methods=False)) == "20 % of the MLP removed"
    assert plain(wording.card_name(MAGNITUDE, 200, several_methods=True)) == "magnitude, 20 % of the MLP removed"
    assert plain(wording.card_name(ZEROS, 500, several_methods=False)).endswith("weights set to zero")


def test_a_model_in_the_making_says_method_and_sparsity():
    assert plain(wording.name_in_progress(MAGNITUDE, 125)) == "magnitude, 12.5 % removed"
    assert plain(wording.name_in_progress(ZEROS, 500)).endswith(", 50 % set to zero")


def test_an_axis_names_weights_only_where_a_method_sets_them_to_zero():
    assert wording.sparsity_axis_title([]) == wording.sparsity_axis_title([MAGNITUDE]) == "MLP channels removed"
    assert wording.sparsity_axis_title([MAGNITUDE, ZEROS]) == "MLP channels removed, or MLP weights set to zero"
