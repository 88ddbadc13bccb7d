"""The parts of the page with all runs."""
