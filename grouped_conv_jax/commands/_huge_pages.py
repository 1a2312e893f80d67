"""Starts the command again with huge pages, before JAX is imported.

glibc reads its tunables only when a process starts.
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
    """Adds the option that prevents it."""
    parser.add_argument(
        OPTION,
        action="store_true",
        default=argparse.SUPPRESS,
        help="do not start again with "
        f"{memory_allocator.VARIABLE}={memory_allocator.TUNABLE}=1 (Linux)",
    )


def start_again(commands: Collection[str]) -> None:
    """Replaces this process by one with huge pages, where they can be had and are not yet.

    Args:
        commands: the subcommands that gain from it.
    """
    words = sys.argv[1:]
    # Otherwise somebody else's program has replaced the arguments, and would run a second time.
    own = sys.orig_argv[-len(words) :] == words
    if not (words and own and words[0] in commands) or {OPTION, "-h", "--help"} & {*words}:
        return
    value = memory_allocator.tunables_for_huge_pages(
        sys.platform, memory_allocator.libc(), memory_allocator.page_setting(), os.environ
    )
    # In secure execution glibc removes the variable, and this would never end.
    if value is None or not sys.executable or ctypes.CDLL(None).getauxval(_AT_SECURE):
        return
    message = f"starting again with {memory_allocator.VARIABLE}={value} ({OPTION} prevents it)"
    print(message, file=sys.stderr, flush=True)
    environment = {**os.environ, memory_allocator.VARIABLE: value}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
