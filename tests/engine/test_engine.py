"""What importing the engine arranges before torch and the hub's clients are there."""

import os
import platform
import subprocess
import sys

import pytest

ARRANGED = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def printed_by(code: str, variables: dict[str, str]) -> list[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (*ARRANGED, *WAITING)
    } | variables
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


OTHERS = {
    "HF_HUB_DISABLE_TELEMETRY": "0",
    "HF_UPDATE_DOWNLOAD_COUNTS": "1",
    "OMP_WAIT_POLICY": "active",
}


@pytest.mark.parametrize(
    ("variables", "found"), [({}, ["1", "0", "20000"]), (OTHERS, ["0", "1", "None"])]
)
def test_variables_are_arranged_before_torch_unless_somebody_says_otherwise(
    variables, found
):
    names = [*ARRANGED, "GOMP_SPINCOUNT"]
    code = f"import os, sys, sparsedash.engine as _; print(*map(os.environ.get, {names}), 'torch' in sys.modules)"
    assert printed_by(code, variables) == [*found, "False"]


@pytest.mark.parametrize(
    ("variables", "found"), [({}, "True"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "False")]
)
def test_the_hubs_client_tells_the_hub_nothing_about_its_user(variables, found):
    environment = {
        "DO_NOT_TRACK": "0",
        "DISABLE_TELEMETRY": "0",
        "HF_HUB_OFFLINE": "0",
    } | variables
    code = (
        "import sparsedash.engine.models.hub; from huggingface_hub import constants; "
        "from huggingface_hub.utils import build_hf_headers; "
        "print(constants.HF_HUB_DISABLE_TELEMETRY, 'torch/' not in build_hf_headers()['user-agent'])"
    )
    assert printed_by(code, environment) == [found, found]


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is arranged"
)
@pytest.mark.parametrize(
    ("variables", "stays"), [({}, True), ({"MALLOC_ARENA_TEST": "8"}, False)]
)
def test_freed_memory_stays_for_the_next_tensor_unless_somebody_says_otherwise(
    variables, stays
):
    # Cleared and freed again and again: new pages each time, where the system has got the old ones
    # back.
    code = (
        "import resource, sparsedash.engine, torch\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "clear = lambda: [torch.ones(2**21) for _ in range(4)]\n"
        "clear(); before = faults()\n"
        "for _ in range(20): clear()\n"
        "print(faults() - before)"
    )
    (n_faults,) = printed_by(code, variables)
    n_pages = 20 * 4 * 2**23 // 4096
    assert (int(n_faults) < n_pages / 10) is stays
