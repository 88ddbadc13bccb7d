"""Calibration: second moments, curves and gradients of a model on text, kept in the store."""
