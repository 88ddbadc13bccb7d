"""Statistics of paired answers, losses, layers and timings: tests, intervals, verdicts. Plain
numbers in and out.
"""
