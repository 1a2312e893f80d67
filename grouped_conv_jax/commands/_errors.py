"""Errors that users can fix, reported without a traceback."""

import importlib


class CommandError(Exception):
    """Ends a command with a message.

    Args:
        message: the problem and its remedy.
        exit_status: 2 for invalid arguments or data, 1 for other failures.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def require(*modules: str, extra: str = "train") -> None:
    """Imports the modules of an extra up front, to fail before any work is done.

    Raises:
        CommandError: a module is missing; the message gives the ``pip install`` command.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CommandError(
                f"this command needs {module.partition('.')[0]} ({error}); "
                f'install it with: pip install "grouped_conv_jax[{extra}]"'
            ) from error
