"""The parts of the jobs page: the machines of a cluster."""
