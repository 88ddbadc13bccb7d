"""Healing: the dense model teaches a sparse one, and the better weights are kept."""
