"""The commands of `sparsedash`; they share the dashboard's data folder."""
