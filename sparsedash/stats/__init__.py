"""Statistics of paired answers and of layers: tests, intervals, stopping early. Plain numbers in, plain numbers out."""
