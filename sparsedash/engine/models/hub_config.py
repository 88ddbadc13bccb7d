"""A hub model's config.json alone, fetched into the hub's own cache by a process of its own:

    python -m sparsedash.engine.models.hub_config OWNER/NAME[@REVISION] [--no-token]

Prints one JSON object, with `message` and `advice` where it could not be fetched.
"""

import argparse
import json
import sys

from sparsedash.engine.models.hub import fetch, token_used
from sparsedash.schema.errors import ModelError


def main() -> None:
    """Fetch it, and say what went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reference")
    parser.add_argument("--no-token", action="store_true")
    asked = parser.parse_args()
    said = {}
    try:
        with token_used(not asked.no_token):
            fetch(asked.reference, asked.reference.partition("@")[2], "config.json")
    except ModelError as error:
        said = {"message": error.message, "advice": error.advice}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
