"""The half that knows torch: models, pruning, evaluation. Runs only in worker processes and in the shell."""
