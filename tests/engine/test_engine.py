"""What importing the engine arranges before torch is there."""

import os
import subprocess
import sys

import pytest

CODE = "import os, sys, sparsedash.engine; print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("asked", "found"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_tensors_lie_on_large_pages_unless_somebody_says_otherwise(asked, found):
    environment = {n: v for n, v in os.environ.items() if n != "THP_MEM_ALLOC_ENABLE"} | asked
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]
