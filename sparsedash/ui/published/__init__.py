"""The parts of the published page."""
