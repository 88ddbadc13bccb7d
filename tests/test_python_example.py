"""The program in examples/ is what somebody who writes Python reads first: it runs, and says what
was lost.
"""

import re
from pathlib import Path

from tests.engine.conftest import model_folder, passages, tokenizers_are_tried_once  # noqa: F401 - fixtures
from tests.forks import forked

ROOT = Path(__file__).parents[1]
SAID = r"""Channels of each block:( \d+){3}
Removing [\d.]+ % of the MLP channels .*
Perplexity [\d.]+ × dense's .*
\d+ answers broke
(?s:.*)
(?P<folder>\S+): a fresh process gives logits that differ by at most \S+
"""


def test_it_prunes_compares_and_exports(model_folder, tmp_path):  # noqa: F811
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {
        "prune_from_python",
        "shipped_run",
    }
    lines = tmp_path / "lines"
    out = tmp_path / "out"
    lines.write_text("\n".join(passages(120)), encoding="utf-8")
    match = re.fullmatch(
        SAID,
        forked(
            "examples.prune_from_python",
            str(model_folder),
            str(lines),
            str(out),
        ),
    )
    assert (
        match and Path(match["folder"]) == out and (out / "model.safetensors").is_file()
    )
