"""Build hook that compiles the native library.

The package also works without the library, only slower. A failed compilation therefore causes a
warning and leaves a file with the reason in the package. If the environment variable
``GROUPED_CONV_TARGET`` selects a target, the failure is an error.
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
    """Adds the library, or the reason for its absence, to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the library before the wheel is built; in place for editable installs."""
        name = os.environ.get("GROUPED_CONV_TARGET")
        build = Path(self.root, "build", name or "native")
        try:
            target = compile_library.target(name)
            # A shared cache would not help: the path of the compiler differs between builds.
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
