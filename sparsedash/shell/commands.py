"""Entry point of `sparsedash`: the table of commands, their exit codes, and `cluster check`."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sparsedash.jobs.cluster_parts import (
    SCHEDULER,
    ClusterMachine,
    MachineFacts,
    named_scheduler,
)
from sparsedash.reporting import wording
from sparsedash.schema import __version__
from sparsedash.schema.errors import (
    Cancelled,
    CorpusError,
    ModelError,
    SettingsError,
    SparseDashError,
    redact_output,
)
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.shell import file_commands, judge_command, run_commands, terminal
from sparsedash.shell.flags import RUN_FLAGS, SEARCH_FLAGS, TOLERANCE_FLAGS, add_flags
from sparsedash.storage.local_machine import is_full


def cluster_command(arguments: argparse.Namespace) -> terminal.Work:
    """Check the scheduler and the machines of a cluster."""
    scheduler = named_scheduler()
    if scheduler is None:
        raise SettingsError(
            SCHEDULER, "", "the address of a scheduler, as in tls://127.0.0.1:8786"
        )
    yield
    from sparsedash.service.cluster_plan import check_cluster

    machines, to_fix = check_cluster(scheduler)
    way = (
        "certificates at both ends"
        if scheduler.encrypted
        else "no certificates, on this machine only"
    )
    print(f"The scheduler at {scheduler.address} answers; {way}.")
    if machines:
        head = [
            "machine",
            "host",
            "jobs",
            "sparsedash",
            "torch",
            "memory",
            "free",
            "GPUs",
        ]
        print(*terminal.align_columns([head, *map(_machine_row, machines)]), sep="\n")
    for problem in to_fix:
        print(terminal.one_line(problem))
    return terminal.EXIT_TO_FIX if to_fix else 0


def _machine_row(machine: ClusterMachine) -> list[str]:
    facts = machine.facts or MachineFacts()
    sizes = [
        "?" if size is None else wording.size(size)
        for size in (facts.total_bytes, facts.free_bytes)
    ]
    about = [
        facts.hostname or "?",
        str(machine.n_slots),
        facts.sparsedash or "?",
        facts.torch or "?",
    ]
    return [machine.name, *about, *sizes, ", ".join(facts.gpus) or "none"]


class Command(NamedTuple):
    """One word after `sparsedash`; the docstring of `start` is its summary.

    start: checks the arguments, raises SparseDashError or yields once, does the work and returns
    the exit code.
    """

    name: str
    example: str
    start: Callable[[argparse.Namespace], terminal.Work]
    flags: Sequence[str]


_MODEL = f"--model {BUILTIN_MODEL}"
_EXPORT = f"{_MODEL} --method best --sparsity 20 --form padded --to DIR"
_FAIL = ("--fail-beyond", "--fail-unless-within")
_FORM = ("--form", "--shard-mb", "--weights", "--dense-gguf", "--to")
_OUTPUT = ("--json", "--quiet")
COMMANDS = (
    Command(
        "run",
        f"{_MODEL} --sparsity 10,20",
        run_commands.run_command,
        (
            *RUN_FLAGS,
            "--heal",
            "--quantise",
            *TOLERANCE_FLAGS,
            "--within-task",
            *_FAIL,
            *_OUTPUT,
        ),
    ),
    Command(
        "find",
        f"{_MODEL} --evaluation builtin:cloze-402 --within 1.5 --within-points 10",
        run_commands.find_command,
        (*SEARCH_FLAGS, "--heal", "--quantise", *TOLERANCE_FLAGS, *_OUTPUT),
    ),
    Command(
        "time",
        f"{_MODEL} --sparsity 20",
        run_commands.time_command,
        (*RUN_FLAGS, "--quantise", "--threads", "--runtime", *_OUTPUT),
    ),
    Command(
        "judge",
        "DENSE OTHER... --within-points 2",
        judge_command.judge_command,
        (
            *(
                "dense",
                "others",
                "--columns",
                "--slices",
                "--cluster",
                "--questions",
                "--size",
            ),
            *(*TOLERANCE_FLAGS, "--within-task", *_FAIL, "--markdown", *_OUTPUT),
        ),
    ),
    Command(
        "export", _EXPORT, file_commands.export_command, (*RUN_FLAGS, *_FORM, "--quiet")
    ),
    Command(
        "verify",
        "DIR",
        file_commands.verify_command,
        ("export", "--data-dir", "--quiet"),
    ),
    Command("runs", "", file_commands.runs_command, ("--data-dir",)),
    Command(
        "pack", "RUN FILE", file_commands.pack_command, ("run", "new", "--data-dir")
    ),
    Command("unpack", "FILE", file_commands.unpack_command, ("packed", "--data-dir")),
    Command("cluster", "check", cluster_command, ("what",)),
)

_ABOUT = f"""\
What would pruning cost this language model?

Calibrates, prunes and evaluates a model as the dashboard does, and shares its data folder and results. A first run, on
a small model that needs no network:

    sparsedash run {COMMANDS[0].example}
"""
_ENDS = """\
`sparsedash run --help` lists the settings. The dashboard itself: `streamlit run app.py` in the checkout.
Exit codes: 0 done, 1 failed, 2 refused before anything was computed, 3 beyond the tolerance (run and judge, with
--fail-beyond), not shown to be within it (with --fail-unless-within) or nothing within it (find), 4 something to fix
(cluster check), 130 stopped from the keyboard.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code, one of those that `--help` lists."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except OSError as error:
        # Who read the output, such as `head`, has seen enough, or there is no room for it; Python
        # flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return terminal.EXIT_FAILED
        return terminal.print_error(
            SparseDashError(f"No output can be written: {error.strerror}."),
            terminal.EXIT_FAILED,
        )
    except KeyboardInterrupt:
        return terminal.print_error(Cancelled(), terminal.EXIT_STOPPED)
    return code


def _run(argv: Sequence[str] | None) -> int:
    redact_output()
    parser = _parser()
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        # argparse takes the value out of `--flag=--`.
        if value == [] or (isinstance(value, list) and [] in value):
            parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
    work: terminal.Work = arguments.start(arguments)
    try:
        next(work)
    except SparseDashError as error:
        # Nothing has been computed yet: an argument was wrong, the data folder's name included.
        return terminal.print_error(error, terminal.EXIT_BAD_ARGUMENTS)
    except OSError as error:
        # A name that no file can have, or a folder that may not be read.
        message = f"{error.filename or 'A file'} cannot be used: {error.strerror}."
        return terminal.print_error(
            SparseDashError(message), terminal.EXIT_BAD_ARGUMENTS
        )
    terminal.silence_libraries()
    try:
        next(work)
    except StopIteration as end:
        return int(end.value)
    except SparseDashError as error:
        # A model or a text that cannot be used shows when it is read; nothing was computed with it
        # either.
        unusable = isinstance(
            error, SettingsError | ModelError | CorpusError
        ) and not is_full(error)
        return terminal.print_error(
            error, terminal.EXIT_BAD_ARGUMENTS if unusable else terminal.EXIT_FAILED
        )
    except BrokenPipeError:
        raise
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        from sparsedash.worker import describe_error

        message, advice = describe_error(error)
        if message.startswith(type(error).__name__):
            # An unexpected error; the traceback names the line.
            traceback.print_exc()
            advice = "That should not happen: please report it."
        elif is_full(error):
            advice = "Free some space, and start it again."
        return terminal.print_error(
            SparseDashError(message, advice), terminal.EXIT_FAILED
        )
    raise AssertionError("A command yields once.")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = terminal.Parser(
        prog="sparsedash", description=_ABOUT, epilog=_ENDS, formatter_class=raw
    )
    parser.add_argument(
        "--version", action="version", version=f"sparsedash {__version__}"
    )
    words = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=terminal.Parser
    )
    for command in COMMANDS:
        summary = " ".join((command.start.__doc__ or "").split()).rstrip(".")
        description = f"{summary}: sparsedash {command.name} {command.example}".rstrip()
        subparser = words.add_parser(
            command.name,
            help=summary[:1].lower() + summary[1:],
            description=description,
        )
        add_flags(subparser, command.name, command.flags)
        subparser.set_defaults(start=command.start)
    return parser
