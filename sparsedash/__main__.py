"""The command `sparsedash`, which is `python -m sparsedash` as well: the dashboard's pipeline from
a shell.
"""

import sys

from sparsedash.shell.commands import main

if __name__ == "__main__":
    sys.exit(main())
