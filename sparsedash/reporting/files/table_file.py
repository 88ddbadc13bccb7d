"""A table of a page as CSV."""

import csv
import io
import re

from sparsedash.reporting.files.sample_files import harmless
from sparsedash.reporting.html import Table
from sparsedash.reporting.wording import NBSP


def table_csv(shown: Table) -> bytes:
    """The table as it is shown, as UTF-8 CSV. Text that a spreadsheet would run begins with an apostrophe."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for line in (shown.head, *shown.rows):
        lines.writerow([harmless(cell.replace(NBSP, " ")) for cell in line])
    return text.getvalue().encode()


def table_file_name(shown: Table) -> str:
    """The name of that file, of letters that every file can have."""
    return f"sparsedash-{re.sub(r'[^a-z0-9]+', '-', shown.name.lower()).strip('-')}.csv"
