"""The parts of the layers page."""
