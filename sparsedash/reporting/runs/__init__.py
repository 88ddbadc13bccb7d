"""All runs together: as rows of a table, and laid over each other in one chart."""
