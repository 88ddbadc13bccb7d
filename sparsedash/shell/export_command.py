"""`sparsedash export`: the files of one sparse model, run first where it is not known yet, and proven."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sparsedash.catalog.export_forms import require_form
from sparsedash.reporting import wording
from sparsedash.reporting.files.export_words import proof_words
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.exports import Export, ExportSettings, Form, Weights, possible_weights
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.validation import one_of
from sparsedash.service.local_models import gguf_file_problem
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_run, asked_settings, asked_store
from sparsedash.shell.terminal import ask_for_quiet, path, warn
from sparsedash.storage.local_paths import local_path
from sparsedash.storage.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, in which form, in which numbers, and where to."""
    ask_for_run(parser)
    forms = f"{', '.join(get_args(Form))} (%(default)s)"
    parser.add_argument("--form", default="padded", metavar="FORM", help=forms)
    weights = f"{', '.join(get_args(Weights))} (as --dtype)"
    parser.add_argument("--weights", metavar="TYPE", help=weights)
    shards = "largest file of weights, in millions of bytes (%(default)s)"
    parser.add_argument("--shard-mb", type=int, default=5_000, metavar="N", help=shards)
    dense = "a GGUF file of the dense model with full weights, for --form gguf where the model is none"
    parser.add_argument("--dense-gguf", type=path, metavar="FILE", help=dense)
    to = "the folder to make; it must not exist (one in the data folder)"
    parser.add_argument("--to", type=path, metavar="DIR", help=to)
    ask_for_quiet(parser)


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_settings(arguments)
    if settings.n_sparse != 1:
        raise SettingsError("sparse models", settings.n_sparse, "one method and one sparsity")
    form = arguments.form
    one_of("form", form, Form)
    # A run in bfloat16 has no such GGUF file; float32 holds the same numbers.
    usual = settings.dtype if settings.dtype in possible_weights(form) else "float32"
    weights = arguments.weights or usual
    to = "" if arguments.to is None else str(_new(arguments.to))
    dense = "" if arguments.dense_gguf is None else str(local_path(str(arguments.dense_gguf)).absolute())
    asked = {"form": form, "weights": weights, "shard_mb": arguments.shard_mb, "to": to, "dense_gguf": dense}
    ExportSettings(dense="", sparse="", **asked)
    if dense and (problem := gguf_file_problem(Path(dense))):
        raise SettingsError("--dense-gguf", str(arguments.dense_gguf), "a GGUF file of the dense model", problem)
    require_form(form, *settings.points[0])
    store = asked_store(arguments, settings)

    def work() -> int:
        found = exported(settings, asked, store, arguments.quiet)
        print(found.folder)
        print(f"{found.layout}; {wording.size(found.n_bytes)} in {found.settings.weights}")
        print(proof_words(found.proof))
        return 0

    return work


def exported(settings: RunSettings, asked: dict[str, object], store: Store, quiet: bool = False) -> Export:
    """The export, after its run as far as that is not stored."""
    with ProgressBar(settings, quiet) as bar:
        bar(Step("start", 0, 0))
        from sparsedash.engine.export.export import export, require_exportable
        from sparsedash.engine.models.loading import ModelShelf
        from sparsedash.engine.run import pipeline

        # Before the run, which may take hours.
        require_exportable(settings, ExportSettings(dense="", sparse="", **asked), store)  # type: ignore[arg-type]
        shelf = ModelShelf()
        run = pipeline.run(settings, store, bar, shelf)
        warn(run.warnings)
        request = ExportSettings(run=run.key, dense=run.dense, sparse=run.sparse[0], **asked)  # type: ignore[arg-type]
        # What is made again is the run's one sparse model.
        return export(request, store, shelf, lambda step: bar(replace(step, point=0)))


def _new(folder: Path) -> Path:
    found = local_path(str(folder)).absolute()
    if found.exists() or found.is_symlink():
        raise SettingsError("--to", str(folder), "a folder that does not exist yet")
    return found
