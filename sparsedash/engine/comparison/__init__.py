"""Two models side by side in one process: continuations of a prompt, and the divergence over a text."""
