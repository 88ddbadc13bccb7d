"""Evaluation on passages: questions, batched answers, scores of the last word, early stopping."""
