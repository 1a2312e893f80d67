"""Compiles the native library when the package is built or installed.

Without it the package works as well, only slower, so that a failure is a warning and a file in the
package that says why; unless the environment variable ``GROUPED_CONV_TARGET`` asks for a target.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_IMPLEMENTATIONS = "grouped_conv_jax/operation/implementations"
sys.path.insert(0, str(Path(__file__).resolve().parent / _IMPLEMENTATIONS / "native"))
import compile_library


class NativeLibrary(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library, or the reason for which there is none, to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles before the wheel is written; in place if it is an editable one."""
        name = os.environ.get("GROUPED_CONV_TARGET")
        build = Path(self.root, "build", name or "native")
        try:
            target = compile_library.target(name)
            # Another build could not use the cache: the compiler is then in another place.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
                made = compile_library.library(target, build, cache)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{target.tag}"
        except compile_library.CompilationError as error:
            if name:
                raise
            self.app.display_warning(f"Without native kernels, which are much faster: {error}")
            made = build / "libgrouped_conv.missing"
            build.mkdir(parents=True, exist_ok=True)
            made.write_text(str(error), encoding="utf-8")
        if version == "editable":
            for old in compile_library.PACKAGE.glob("libgrouped_conv.*"):
                old.unlink()
            made.replace(compile_library.PACKAGE / made.name)
        else:
            build_data["force_include"][str(made)] = f"{_IMPLEMENTATIONS}/{made.name}"
