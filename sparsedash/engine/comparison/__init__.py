"""Two models in one process: continuations, divergence and speed; rates of this machine."""
