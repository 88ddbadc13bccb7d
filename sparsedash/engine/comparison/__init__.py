"""Two models in one process: continuations of a prompt, divergence over a text, speed; rates of
this machine.
"""
