"""What users leave next to the results."""

import pytest

from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.user_records import RunMark
from sparsedash.storage.users import LONGEST_NAME, MAX_PROMPTS, UserData


@pytest.fixture
def user_data(store):
    return UserData(store)


def test_a_name_and_a_pin_are_kept_beside_each_other_and_a_mark_that_says_nothing_is_not(
    user_data,
):
    user_data.name_run("r", "  The one \n for the talk ")
    user_data.pin_runs(["r", "s"], pinned=True)
    assert user_data.marks() == {
        "r": RunMark(name="The one for the talk", pinned=True),
        "s": RunMark(pinned=True),
    }
    assert (user_data.name_of("r"), user_data.name_of("s"), user_data.name_of("t")) == (
        "The one for the talk",
        "",
        "",
    )
    user_data.name_run("r", " ")
    user_data.pin_runs(["r"], pinned=False)
    user_data.name_run("t", "Three")
    user_data.forget_runs(["s"])
    assert user_data.marks() == {"t": RunMark(name="Three")}


def test_of_the_prompts_the_newest_are_kept(user_data):
    for n in range(MAX_PROMPTS + 2):
        user_data.keep_prompt(
            ContinuationSettings(
                left="a",
                right="b",
                prompt=f"Once {n}",
            )
        )
    newest = [prompt.prompt for prompt in user_data.prompts("a", "b")]
    assert newest == [f"Once {n}" for n in range(MAX_PROMPTS + 1, 1, -1)]


@pytest.mark.parametrize(
    ("name", "kept"), [("x" * 1000, "x" * LONGEST_NAME), ("a \ud83d name", "a ? name")]
)
def test_a_long_name_is_cut_and_one_that_no_file_can_hold_is_kept_without_that(
    user_data, name, kept
):
    user_data.name_run("r", name)
    assert user_data.name_of("r") == kept
