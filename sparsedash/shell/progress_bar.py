"""The progress of a run on a terminal."""

from sparsedash.schema.progress import STAGE_TITLES, Step
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.printed_table import row_name


class ProgressBar:
    """One progress bar a stage and sparse model, on standard error. settings: None of a search."""

    def __init__(self, settings: RunSettings | None) -> None:
        self._settings = settings

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
        title = STAGE_TITLES[step.stage]
        if step.stage in ("prune", "evaluate"):
            title += f", {self._model(step.point)}"
        if self._bar is None or title != self._title:
            self.__exit__()
            self._title = title
            self._bar = self._tqdm(total=step.total, desc=title, unit=f" {step.unit}", leave=False)
        self._bar.total = step.total
        self._bar.update(step.done - self._bar.n)

    def _model(self, point: int | None) -> str:
        if point is None:
            return "dense"
        if self._settings is None:
            return f"trial {point + 1}"
        method, permille = self._settings.points[point]
        return row_name(method, permille / 10, len(self._settings.methods) > 1)
