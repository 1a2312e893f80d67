"""Failures that a user can mend, told in one line instead of a traceback."""

import importlib


class CommandError(Exception):
    """Ends a command with a message.

    Args:
        message: what is wrong, and what mends it.
        exit_status: 2 where arguments or data are wrong, 1 for other failures.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def require(*modules: str, extra: str = "train") -> None:
    """Imports modules of an extra now, before any work is done that would be lost without them.

    Raises:
        CommandError: one is missing; the message names the ``pip install`` that mends it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CommandError(
                f"this needs {module.partition('.')[0]} ({error}); "
                f'it comes with: pip install "grouped_conv_jax[{extra}]"'
            ) from error
