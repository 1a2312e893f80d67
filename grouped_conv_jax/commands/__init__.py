"""The command ``grouped-conv-jax`` and its subcommands.

A subcommand is a module with ``SUMMARY``, ``DESCRIPTION``, ``EPILOG``, ``add_arguments(parser)``
and ``run(arguments) -> int``. It imports expensive modules only in ``run``.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from grouped_conv_jax import __version__
from grouped_conv_jax.commands import _huge_pages
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._program import PROGRAM

__all__ = ["main"]

_COMMANDS = ("train", "predict", "bench")
# The exit status that shells report after SIGPIPE.
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments after the program's name; ``None`` takes them from ``sys.argv`` and may
            restart the process with huge pages.

    Returns:
        The exit status: 0, 2 for invalid arguments or data, 1 for other failures, 130 after Ctrl-C,
        141 if the reader of the output closed the pipe.

    Raises:
        SystemExit: raised by ``argparse`` after ``--help`` and for invalid arguments.
    """
    if argv is None:
        _huge_pages.restart(_COMMANDS)
    # Import the subcommands, and with them JAX, after the restart.
    commands = {name: importlib.import_module(f"{__name__}.{name}") for name in _COMMANDS}
    arguments = _parser(commands).parse_args(argv)
    try:
        status = int(commands[arguments.command].run(arguments))
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        # A closed pipe, as in `... | head`, is not an error; the interpreter flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except CommandError as error:
        print(f"{PROGRAM} {arguments.command}: error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"{PROGRAM} {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM} {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train, apply and benchmark networks with grouped convolutions.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        _huge_pages.add_option(subparser)
    return parser
