"""The parts of the prune page, beside the form."""
