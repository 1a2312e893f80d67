"""The memory allocator of this process, and whether it uses huge pages.

glibc returns large buffers to the system when they are freed, so every call of a jitted program
faults its buffers in again, page by page. Huge pages need one page fault per 2 MB. This module does
not import JAX.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OLDEST_GLIBC = (2, 35)


def tunables_for_huge_pages(
    platform: str, libc: str, page_setting: str, environment: Mapping[str, str]
) -> str | None:
    """Returns the value of ``GLIBC_TUNABLES`` that enables huge pages.

    Args:
        platform: ``sys.platform``.
        libc: result of :func:`libc`.
        page_setting: result of :func:`page_setting`; the tunable takes effect at ``madvise`` only.
        environment: environment variables of the process.

    Returns:
        The value, or ``None`` if the tunable has no effect or is already set.
    """
    version = re.match(r"glibc (\d+)\.(\d+)", libc)
    if platform != "linux" or version is None or page_setting != "madvise":
        return None
    if tuple(map(int, version.groups())) < _OLDEST_GLIBC:
        return None
    present = environment.get(VARIABLE, "")
    if TUNABLE in present or _preloaded(environment):
        return None
    return ":".join(filter(None, [present, f"{TUNABLE}=1"]))


def without_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns a copy of the environment without the tunable."""
    words = environment.get(VARIABLE, "").split(":")
    others = ":".join(word for word in words if not word.startswith(TUNABLE))
    rest = {name: value for name, value in environment.items() if name != VARIABLE}
    return rest | ({VARIABLE: others} if others else {})


def libc() -> str:
    """Returns the name and version of the C library, as in ``"glibc 2.36"``; empty if unknown."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


def page_setting() -> str:
    """Returns the mode of transparent huge pages: ``always``, ``madvise``, ``never`` or empty."""
    try:
        selected = re.search(r"\[(\w+)\]", _SETTING.read_text())
    except OSError:
        return ""
    return selected[1] if selected else ""


def describe(libc: str, page_setting: str, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Returns the allocator's name and its pages: ``huge``, ``small``, or ``None`` if unknown."""
    preloaded = _preloaded(environment)
    tuned = re.search(rf"{re.escape(TUNABLE)}=[12]", environment.get(VARIABLE, ""))
    huge = page_setting == "always" or (page_setting == "madvise" and tuned is not None)
    return {
        "allocator": preloaded or libc or None,
        "pages": None if preloaded else "huge" if huge else "small",
    }


def _preloaded(environment: Mapping[str, str]) -> str | None:
    """Returns the preloaded library that replaces glibc's allocator, if any."""
    libraries = re.split("[ :]+", environment.get("LD_PRELOAD", ""))
    names = map(os.path.basename, libraries)
    return next((name for name in names if re.search("malloc|hoard", name)), None)
