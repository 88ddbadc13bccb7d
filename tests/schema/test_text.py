"""Text that can leave the program."""

from sparsedash.schema.text import encodable


def test_a_half_of_a_character_becomes_a_question_mark_and_the_rest_stays():
    assert encodable("kettle \ud83d 👩‍🚀") == "kettle ? 👩‍🚀"


def test_text_without_halves_stays_as_it_is():
    assert encodable("“naïve” \n\x00") == "“naïve” \n\x00"
