"""Results in words and tables, of what a test has stored."""

from tests.ui.conftest import backend

__all__ = ["backend"]
