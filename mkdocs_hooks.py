"""What MkDocs builds pages of besides ``docs/``: the change log, figures, and tables of figures."""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
# The notebooks hold no formulas, and pages load nothing from other hosts.
_MATHJAX = re.compile(r"<script data-mkdocs-jupyter-mathjax=.*?</script>\n?", re.DOTALL)
# Where a page or a picture from outside of docs/ appears on the site.
_ELSEWHERE = {"CHANGELOG.md": "changelog.md", "benchmarks/speedups.png": "benchmarks/speedups.png"}

sys.path.insert(0, str(ROOT / "benchmarks"))
import tables  # noqa: E402


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the files that lie elsewhere in the repository."""
    for path, place in _ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the tables of figures into the pages."""
    return tables.fill(markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Removes the script that would load MathJax into the notebooks."""
    return _MATHJAX.sub("", output)
