"""Calibration: second moments, gradients and sensitivities of a model on text, kept in the store."""
