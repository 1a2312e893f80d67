"""Restarts the command with huge pages, before JAX is imported.

The restart is necessary because glibc reads its tunables only when a process starts.
"""

import argparse
import ctypes
import os
import sys
from collections.abc import Collection

from grouped_conv_jax.benchmarks import memory_allocator

OPTION = "--no-huge-pages"
_AT_SECURE = 23


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that disables the restart."""
    parser.add_argument(
        OPTION,
        action="store_true",
        default=argparse.SUPPRESS,
        help="do not restart with "
        f"{memory_allocator.VARIABLE}={memory_allocator.TUNABLE}=1 (Linux)",
    )


def restart(commands: Collection[str]) -> None:
    """Replaces this process by one with huge pages, if available and not yet in use.

    Args:
        commands: the subcommands that benefit from huge pages.
    """
    words = sys.argv[1:]
    # If another program has replaced sys.argv, a restart would run that program twice.
    own = sys.orig_argv[-len(words) :] == words
    if not (words and own and words[0] in commands) or {OPTION, "-h", "--help"} & {*words}:
        return
    value = memory_allocator.tunables_for_huge_pages(
        sys.platform, memory_allocator.libc(), memory_allocator.page_setting(), os.environ
    )
    # In secure-execution mode glibc removes the variable, so the process would restart forever.
    if value is None or not sys.executable or ctypes.CDLL(None).getauxval(_AT_SECURE):
        return
    message = f"restarting with {memory_allocator.VARIABLE}={value} ({OPTION} prevents this)"
    print(message, file=sys.stderr, flush=True)
    environment = {**os.environ, memory_allocator.VARIABLE: value}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
