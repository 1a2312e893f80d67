"""The allocator of this process, and whether it gets huge pages.

glibc returns large buffers to the system when they are freed, so that every call of a jitted
program faults its buffers in again, page by page. With huge pages it does so once in 2 MB.
Nothing here imports JAX.
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
    """The value of ``GLIBC_TUNABLES`` that a process needs to get huge pages.

    Args:
        platform: ``sys.platform``.
        libc: what :func:`libc` returns.
        page_setting: what :func:`page_setting` returns; at ``always`` the tunable changes nothing.
        environment: of the process.

    Returns:
        The value, or ``None`` if the tunable has no effect or has been decided on already.
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
    """The environment of a process like this one, but for the tunable."""
    words = environment.get(VARIABLE, "").split(":")
    others = ":".join(word for word in words if not word.startswith(TUNABLE))
    rest = {name: value for name, value in environment.items() if name != VARIABLE}
    return rest | ({VARIABLE: others} if others else {})


def libc() -> str:
    """The C library's name and version, ``"glibc 2.36"``; empty where it does not say."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


def page_setting() -> str:
    """Transparent huge pages: ``always``, ``madvise`` or ``never``; empty without them."""
    try:
        selected = re.search(r"\[(\w+)\]", _SETTING.read_text())
    except OSError:
        return ""
    return selected[1] if selected else ""


def describe(libc: str, page_setting: str, environment: Mapping[str, str]) -> dict[str, str | None]:
    """The allocator by name, and its pages: ``huge``, ``small``, or ``None`` if it decides."""
    preloaded = _preloaded(environment)
    tuned = re.search(rf"{re.escape(TUNABLE)}=[12]", environment.get(VARIABLE, ""))
    huge = page_setting == "always" or (page_setting == "madvise" and tuned is not None)
    return {
        "allocator": preloaded or libc or None,
        "pages": None if preloaded else "huge" if huge else "small",
    }


def _preloaded(environment: Mapping[str, str]) -> str | None:
    """The library that replaces glibc's allocator."""
    libraries = re.split("[ :]+", environment.get("LD_PRELOAD", ""))
    names = map(os.path.basename, libraries)
    return next((name for name in names if re.search("malloc|hoard", name)), None)
