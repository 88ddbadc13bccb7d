"""The parts of the models page: what is asked for, and what was taken away."""
