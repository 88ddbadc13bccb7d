"""The parts of the storage page."""
