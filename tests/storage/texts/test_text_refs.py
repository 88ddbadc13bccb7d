"""Which file and which of its texts a reference names."""

from itertools import islice
from pathlib import Path

import pytest

from sparsedash.storage.text_files import file_of, text_slice

HUGE = "9" * 30


@pytest.mark.parametrize(
    ("reference", "start", "stop"),
    [("file:a.txt[1:3]", 1, 3), (f"file:a.txt[{HUGE}:]", 3, 3), (f"file:a.txt[:{HUGE}]", 0, 3), ("file:a.txt", 0, 3)],
)
def test_a_slice_takes_what_there_is_however_large_its_ends_are(reference, start, stop):
    part = text_slice(reference)
    assert list(islice("abc", part.start, part.stop)) == list("abc")[start:stop]
    assert file_of(reference, Path()) == Path("a.txt")
