"""Models as they are read: found, loaded with remote code refused, told apart, and walked block by block."""
