"""Entry point of `sparsedash`: the table of commands, their exit codes, and `cluster check`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsedash import __version__
from sparsedash.jobs.cluster_parts import SCHEDULER, ClusterMachine, MachineFacts, named_scheduler
from sparsedash.reporting import wording
from sparsedash.schema.errors import Cancelled, CorpusError, ModelError, SettingsError, SparseDashError, redact_output
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.shell import file_commands, run_commands
from sparsedash.shell.terminal import (
    EXIT_BAD_ARGUMENTS,
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_TO_FIX,
    Parser,
    align_columns,
    print_error,
    silence_libraries,
)
from sparsedash.storage.local_machine import is_full


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be done with the cluster."""
    parser.add_argument("what", choices=["check"], help=f"check: whether that of {SCHEDULER} can be used, and by whom")


def prepare_cluster(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once a scheduler is named that may be talked to. Raises SparseDashError."""
    scheduler = named_scheduler()
    if scheduler is None:
        raise SettingsError(SCHEDULER, "", "the address of a scheduler, as in tls://127.0.0.1:8786")

    def work() -> int:
        from sparsedash.service.cluster_plan import check_cluster

        found = check_cluster(scheduler)
        way = "certificates at both ends" if scheduler.encrypted else "no certificates, on this machine only"
        print(f"The scheduler at {scheduler.address} answers; {way}.")
        head = ["machine", "host", "jobs", "sparsedash", "torch", "memory", "free", "GPUs"]
        table = align_columns([head, *map(_machine_row, found.machines)]) if found.machines else ()
        for line in (*table, *found.to_mend):
            print(line)
        return EXIT_TO_FIX if found.to_mend else 0

    return work


def _machine_row(machine: ClusterMachine) -> list[str]:
    facts = machine.facts or MachineFacts()
    sizes = [_size(facts.total_bytes), _size(facts.free_bytes)]
    packages = [facts.sparsedash or "?", facts.torch or "?"]
    gpus = ", ".join(facts.gpus) or "none"
    return [machine.name, facts.hostname or "?", str(machine.n_slots), *packages, *sizes, gpus]


def _size(n_bytes: int | None) -> str:
    return "?" if n_bytes is None else wording.size(n_bytes)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word after `sparsedash`.

    does: in a line. example: of its use. prepare: checks all that was asked for and gives the work, which returns the
    exit code; raises SparseDashError before anything is computed.
    """

    name: str
    does: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.Namespace], Callable[[], int]]


COMMANDS = (
    Command(
        name="run",
        does="calibrate, prune and evaluate a model",
        example=f"sparsedash run --model {BUILTIN_MODEL} --sparsity 10,20",
        add_arguments=run_commands.add_run_arguments,
        prepare=run_commands.prepare_run,
    ),
    Command(
        name="find",
        does="find how much can go within what may be lost",
        example=f"sparsedash find --model {BUILTIN_MODEL} --within 1.10 --within-points 2",
        add_arguments=run_commands.add_find_arguments,
        prepare=run_commands.prepare_find,
    ),
    Command(
        name="time",
        does="measure how fast a sparse model is beside its dense one",
        example=f"sparsedash time --model {BUILTIN_MODEL} --sparsity 20",
        add_arguments=run_commands.add_time_arguments,
        prepare=run_commands.prepare_time,
    ),
    Command(
        name="export",
        does="write the files of one sparse model, and prove that they load",
        example=f"sparsedash export --model {BUILTIN_MODEL} --method best --sparsity 20 --form padded --to DIR",
        add_arguments=file_commands.add_export_arguments,
        prepare=file_commands.prepare_export,
    ),
    Command(
        name="verify",
        does="prove again that an exported folder loads and is what it was",
        example="sparsedash verify DIR",
        add_arguments=file_commands.add_verify_arguments,
        prepare=file_commands.prepare_verify,
    ),
    Command(
        name="runs",
        does="list the runs that are stored, with their keys",
        example="sparsedash runs",
        add_arguments=file_commands.add_data_folder_flag,
        prepare=file_commands.prepare_runs,
    ),
    Command(
        name="pack",
        does="write a finished run into one file, for another machine",
        example="sparsedash pack RUN FILE",
        add_arguments=file_commands.add_pack_arguments,
        prepare=file_commands.prepare_pack,
    ),
    Command(
        name="unpack",
        does="add the run of such a file to the results here",
        example="sparsedash unpack FILE",
        add_arguments=file_commands.add_unpack_arguments,
        prepare=file_commands.prepare_unpack,
    ),
    Command(
        name="cluster",
        does="say whether the machines of a cluster can be used",
        example="sparsedash cluster check",
        add_arguments=add_cluster_arguments,
        prepare=prepare_cluster,
    ),
)

_ABOUT = f"""\
What would pruning cost this language model?

Calibrates, prunes and evaluates a model as the dashboard does, and shares its data folder: what one of them has
computed, the other does not compute again. To begin with, on a small model that needs no network:

    {COMMANDS[0].example}
"""
_ENDS = """\
`sparsedash run --help` lists what can be chosen. The dashboard itself: `streamlit run app.py` in the checkout.
Exit codes: 0 done, 1 failed, 2 refused before anything was computed, 3 beyond what may be lost (run --fail-beyond), not
shown to be within it (run --fail-unless-within) or nothing within it (find), 4 something is to be mended (cluster
check), 130 stopped from the keyboard.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code, as `--help` lists them."""
    redact_output()
    arguments = _parsed(argv)
    try:
        work = arguments.prepare(arguments)
    except SparseDashError as error:
        # Nothing has been computed yet: whatever is wrong was asked wrongly, the data folder's name included.
        return print_error(error, EXIT_BAD_ARGUMENTS)
    silence_libraries()
    try:
        code: int = work()
        return code
    except SparseDashError as error:
        # What is in a model or a text shows when it is read; nothing was computed with it either.
        unusable = isinstance(error, SettingsError | ModelError | CorpusError) and not is_full(error)
        return print_error(error, EXIT_BAD_ARGUMENTS if unusable else EXIT_FAILED)
    except KeyboardInterrupt:
        return print_error(Cancelled(), EXIT_STOPPED)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if value == []:  # argparse takes the value out of `--flag=--`
            parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
    return arguments


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="sparsedash", description=_ABOUT, epilog=_ENDS, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"sparsedash {__version__}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        description = f"{command.does.capitalize()}: {command.example}"
        own = words.add_parser(command.name, help=command.does, description=description)
        command.add_arguments(own)
        own.set_defaults(prepare=command.prepare)
    return parser
