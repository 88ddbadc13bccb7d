"""What can be taken along: the report, its chart, passages as files, and a run as JSON."""
