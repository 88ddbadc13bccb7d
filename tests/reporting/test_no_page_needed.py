"""Words, tables, charts and files can be made without a page: by the shell, by a test, by another front."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reporting_imports_no_streamlit_not_even_through_others():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("sparsedash/reporting/**/*.py")
    ]
    assert "sparsedash.reporting.wording" in modules
    program = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('streamlit' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
