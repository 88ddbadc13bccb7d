"""Who has asked for what: the names beside the keys of jobs, which are those of their results, and beside uploads."""

from sparsedash.jobs.database import Database


class Owners:
    """The owners of one data folder's things. Several may own one: who asks for the same gets the same.

    Without an owner is what was made while nobody else was served, or in a shell. Every method may raise StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, thing: str, owner: str) -> None:
        """Note that it is this owner's as well; the empty name owns nothing."""
        if owner and owner not in self.of(thing):
            with self._database.writing() as db:
                db.execute("INSERT OR IGNORE INTO owners (thing, owner) VALUES (?, ?)", (thing, owner))

    def take(self, thing: str, owner: str) -> bool:
        """Note that it is this owner's no more; whether it is somebody else's still."""
        with self._database.writing() as db:
            db.execute("DELETE FROM owners WHERE thing = ? AND owner = ?", (thing, owner))
            return bool(self.of(thing))

    def forget(self, thing: str) -> None:
        """Note that it is nobody's: it is gone."""
        if self.of(thing):
            with self._database.writing() as db:
                db.execute("DELETE FROM owners WHERE thing = ?", (thing,))

    def of(self, thing: str) -> frozenset[str]:
        """Whose it is."""
        rows = self._database.read("SELECT owner FROM owners WHERE thing = ?", (thing,))
        return frozenset(row["owner"] for row in rows)

    def things(self, owner: str) -> frozenset[str]:
        """All that is this owner's."""
        rows = self._database.read("SELECT thing FROM owners WHERE owner = ?", (owner,))
        return frozenset(row["thing"] for row in rows)
