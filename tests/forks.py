"""Programs run in forks of the test process, which has imported torch and transformers already:
seconds less each.
"""

import os
import runpy
import sys
import traceback
import warnings


def forked(
    module: str, *options: str, environment: dict[str, str] | None = None
) -> str:
    """What `python -m module` prints, run in a fork of this process, which has imported torch
    already.
    """
    sys.stdout.flush()
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        with os.fdopen(read) as pipe:
            printed = pipe.read()
        assert os.waitpid(pid, 0)[1] == 0, printed[-4000:]
        return printed
    status = 1
    try:
        os.dup2(write, 1)
        warnings.simplefilter("default")
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.argv = [module, *options]
        os.environ |= environment or {}
        runpy.run_module(module, run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = (
            ended.code
            if isinstance(ended.code, int)
            else 0
            if ended.code is None
            else 1
        )
    finally:
        if status:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(status)
