"""A part of a run: some of its sparse models, made on one machine of a cluster while others make the others."""

from dataclasses import dataclass

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.hashing import digest
from sparsedash.schema.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """run: the whole run, since the keys of its records may depend on how many there are. run_key: its name.

    points: the places in the run's `points`, from 0, of the sparse models that this part makes.
    """

    run: RunSettings
    run_key: str
    points: tuple[int, ...]

    def __post_init__(self) -> None:
        n_sparse = self.run.n_sparse
        if not self.points or len(set(self.points)) != len(self.points) or not set(self.points) <= {*range(n_sparse)}:
            raise SettingsError("points", self.points, f"places of sparse models of this run, 0 to {n_sparse - 1}")

    def key(self) -> str:
        """The name of this part."""
        return digest({"part_of": self.run_key, "points": self.points})
