"""Answers that other programs wrote: one module a program, found by `answer_files`."""
