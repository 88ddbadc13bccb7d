"""Texts as they are read: from the hub, from files, or written by the model itself."""
