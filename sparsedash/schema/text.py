"""Text that can leave the program: written to a file, a database or the network."""


def encodable(text: str) -> str:
    """The text with a question mark for every half of a character, which UTF-8 cannot hold and SQLite refuses."""
    return text.encode("utf-8", "replace").decode()
