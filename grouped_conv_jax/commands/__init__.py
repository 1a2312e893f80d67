"""The command ``grouped-conv-jax`` and its subcommands.

A subcommand is a module with ``SUMMARY``, ``add_arguments(parser)`` and ``run(arguments) -> int``.
Nothing heavy is imported before ``run``.
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
# What shells report for a process that SIGPIPE ended.
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: what follows the program's name; ``None`` takes it from ``sys.argv``, and may start
            the process again with huge pages.

    Returns:
        The exit status: 0, 2 for invalid arguments or data, 1 for other failures, 130 after Ctrl-C,
        141 if nobody reads the output any more.

    Raises:
        SystemExit: by ``argparse``, after ``--help`` and for arguments that it refuses.
    """
    if argv is None:
        _huge_pages.start_again(_COMMANDS)
    # Only now, since they import JAX.
    commands = {name: importlib.import_module(f"{__name__}.{name}") for name in _COMMANDS}
    arguments = _parser(commands).parse_args(argv)
    try:
        status = int(commands[arguments.command].run(arguments))
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        # `... | head` is no failure. The interpreter flushes once more when it ends.
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
        description="Grouped convolution for JAX and Flax, at work.",
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
