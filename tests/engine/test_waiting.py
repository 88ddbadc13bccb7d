"""How the engine's threads wait for each other, which must be said before torch is loaded."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import os, sys, sparsedash.engine; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(("said", "found"), [({}, "20000"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_threads_wait_patiently_unless_the_user_has_said_how(said, found):
    silent = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**silent, **said})
    assert done.stdout.split() == [found, "False"], done.stderr
