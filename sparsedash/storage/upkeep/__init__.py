"""Keeping house in the data folder: how much of it there is, how much there may be, whether it is whole."""
