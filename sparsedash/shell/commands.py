"""Entry point of `sparsedash`: the table of commands, their exit codes, and `cluster check`."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sparsedash import __version__
from sparsedash.jobs.cluster_parts import SCHEDULER, ClusterMachine, MachineFacts, named_scheduler
from sparsedash.reporting import wording
from sparsedash.schema.errors import Cancelled, CorpusError, ModelError, SettingsError, SparseDashError, redact_output
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.shell import file_commands, run_commands
from sparsedash.shell.flags import add_data_folder_flag
from sparsedash.shell.terminal import (
    EXIT_BAD_ARGUMENTS,
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_TO_FIX,
    Parser,
    Work,
    align_columns,
    print_error,
    silence_libraries,
)
from sparsedash.storage.local_machine import is_full


def add_cluster_command_flags(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `cluster`."""
    parser.add_argument("what", choices=["check"], help=f"check: whether that of {SCHEDULER} can be used, and by whom")


def cluster_command(arguments: argparse.Namespace) -> Work:
    """Check the scheduler and the machines of a cluster."""
    scheduler = named_scheduler()
    if scheduler is None:
        raise SettingsError(SCHEDULER, "", "the address of a scheduler, as in tls://127.0.0.1:8786")
    yield
    from sparsedash.service.cluster_plan import check_cluster

    machines, to_fix = check_cluster(scheduler)
    way = "certificates at both ends" if scheduler.encrypted else "no certificates, on this machine only"
    print(f"The scheduler at {scheduler.address} answers; {way}.")
    if machines:
        head = ["machine", "host", "jobs", "sparsedash", "torch", "memory", "free", "GPUs"]
        print(*align_columns([head, *map(_machine_row, machines)]), sep="\n")
    for problem in to_fix:
        print(problem)
    return EXIT_TO_FIX if to_fix else 0


def _machine_row(machine: ClusterMachine) -> list[str]:
    facts = machine.facts or MachineFacts()
    sizes = ["?" if size is None else wording.size(size) for size in (facts.total_bytes, facts.free_bytes)]
    packages = [facts.sparsedash or "?", facts.torch or "?"]
    gpus = ", ".join(facts.gpus) or "none"
    return [machine.name, facts.hostname or "?", str(machine.n_slots), *packages, *sizes, gpus]


class Command(NamedTuple):
    """One word after `sparsedash`; the docstring of `start` is its summary.

    start: checks the arguments, raises SparseDashError or yields once, does the work and returns the exit code.
    """

    name: str
    example: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    start: Callable[[argparse.Namespace], Work]


_MODEL = f"--model {BUILTIN_MODEL}"
_EXPORT = f"{_MODEL} --method best --sparsity 20 --form padded --to DIR"
COMMANDS = (
    Command("run", f"{_MODEL} --sparsity 10,20", run_commands.add_run_command_flags, run_commands.run_command),
    Command(
        "find",
        f"{_MODEL} --within 1.10 --within-points 2",
        run_commands.add_find_command_flags,
        run_commands.find_command,
    ),
    Command("time", f"{_MODEL} --sparsity 20", run_commands.add_time_command_flags, run_commands.time_command),
    Command("export", _EXPORT, file_commands.add_export_command_flags, file_commands.export_command),
    Command("verify", "DIR", file_commands.add_verify_command_flags, file_commands.verify_command),
    Command("runs", "", add_data_folder_flag, file_commands.runs_command),
    Command("pack", "RUN FILE", file_commands.add_pack_command_flags, file_commands.pack_command),
    Command("unpack", "FILE", file_commands.add_unpack_command_flags, file_commands.unpack_command),
    Command("cluster", "check", add_cluster_command_flags, cluster_command),
)

_ABOUT = f"""\
What would pruning cost this language model?

Calibrates, prunes and evaluates a model as the dashboard does, and shares its data folder and results. To begin with,
on a small model that needs no network:

    sparsedash run {COMMANDS[0].example}
"""
_ENDS = """\
`sparsedash run --help` lists the settings. The dashboard itself: `streamlit run app.py` in the checkout.
Exit codes: 0 done, 1 failed, 2 refused before anything was computed, 3 beyond the tolerance (run --fail-beyond), not
shown to be within it (run --fail-unless-within) or nothing within it (find), 4 something to fix (cluster check), 130
stopped from the keyboard.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of the command line. Returns the exit code, one of those that `--help` lists."""
    redact_output()
    arguments = _parsed(argv)
    work: Work = arguments.start(arguments)
    try:
        next(work)
    except SparseDashError as error:
        # Nothing has been computed yet: an argument was wrong, the data folder's name included.
        return print_error(error, EXIT_BAD_ARGUMENTS)
    silence_libraries()
    try:
        return _finish(work)
    except SparseDashError as error:
        # A model or a text that cannot be used shows when it is read; nothing was computed with it either.
        unusable = isinstance(error, SettingsError | ModelError | CorpusError) and not is_full(error)
        return print_error(error, EXIT_BAD_ARGUMENTS if unusable else EXIT_FAILED)
    except KeyboardInterrupt:
        return print_error(Cancelled(), EXIT_STOPPED)


def _finish(work: Work) -> int:
    try:
        next(work)
    except StopIteration as end:
        return int(end.value)
    raise AssertionError("A command yields once.")


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
        summary = (command.start.__doc__ or "").rstrip(".")
        description = f"{summary}: sparsedash {command.name} {command.example}".rstrip()
        own = words.add_parser(command.name, help=summary[:1].lower() + summary[1:], description=description)
        command.add_flags(own)
        own.set_defaults(start=command.start)
    return parser
