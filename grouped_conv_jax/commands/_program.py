"""How the command is called, for advice that can be copied."""

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "grouped-conv-jax"


def command(*words: str | Path) -> str:
    """A line for the shell that runs this program, wherever it is installed, with other words."""
    started = sys.argv[0]
    if Path(started).stem != PROGRAM:
        program = [sys.executable, "-m", "grouped_conv_jax"]
    elif shutil.which(PROGRAM) == started:
        program = [PROGRAM]
    else:
        program = [started]
    return shlex.join([*program, *map(str, words)])
