"""Command lines for messages, ready to copy."""

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "grouped-conv-jax"


def command(*words: str | Path) -> str:
    """Returns a shell command that runs this installation of the program with some arguments."""
    started = sys.argv[0]
    if Path(started).stem != PROGRAM:
        program = [sys.executable, "-m", "grouped_conv_jax"]
    elif shutil.which(PROGRAM) == started:
        program = [PROGRAM]
    else:
        program = [started]
    return shlex.join([*program, *map(str, words)])
