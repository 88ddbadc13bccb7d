"""The progress of a run on standard error."""

import sys

from sparsedash.schema.progress import STAGE_TITLES, Step
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.printed_table import row_name


class ProgressBar:
    """A bar for each stage and sparse model; without a terminal one line each.

    settings: None of a search. quiet: show nothing.
    """

    def __init__(self, settings: RunSettings | None, quiet: bool = False) -> None:
        self._settings = settings
        self._quiet = quiet
        self._said: set[str] = set()

    def __enter__(self) -> "ProgressBar":
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: tqdm | None = None
        self._title = ""
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: Step) -> None:
        """Show how far it is."""
        if self._quiet:
            return
        title = STAGE_TITLES[step.stage]
        if step.stage in ("prune", "evaluate"):
            title += f", {self._model(step.point)}"
        if not sys.stderr.isatty():
            self._say_once(title, step)
            return
        if self._bar is None or title != self._title:
            self.__exit__()
            self._title = title
            self._bar = self._tqdm(total=step.total, desc=title, unit=f" {step.unit}", leave=False)
        self._bar.total = step.total
        self._bar.update(step.done - self._bar.n)

    def _say_once(self, title: str, step: Step) -> None:
        if title not in self._said:
            self._said.add(title)
            counted = step.total and step.unit != "steps"
            print(f"{title}: {step.total:,} {step.unit}" if counted else title, file=sys.stderr)

    def _model(self, point: int | None) -> str:
        if point is None:
            return "dense"
        if self._settings is None:
            return f"trial {point + 1}"
        method, permille = self._settings.points[point]
        return row_name(method, permille / 10, len(self._settings.methods) > 1)
