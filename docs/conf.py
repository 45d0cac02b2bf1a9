"""How Sphinx makes a site of README.md and docs/: `make docs`.

The pages are plain Markdown with relative links, as they are read in the repository. So the repository is Sphinx's
source folder, and the navigation is taken from the list in docs/index.md rather than kept a second time.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "build" / "screenshots"
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]

project = "pytest-commandbus"
author = project_copyright = "The pytest-commandbus contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "docs/**.rst", "examples/README.md", "examples/*/README.md"]

myst_heading_anchors = 4
myst_heading_slug_func = "anchors.anchor"

default_role = "literal"  # docstrings say `name` as Markdown does
add_module_names = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = project
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False

_SECTION = re.compile(r"^- (?P<title>[A-Z][\w ]+)\n(?P<links>(?:  .*\n)+)", re.MULTILINE)
_LINK = re.compile(r"^  - \[.*?\]\((?P<target>[^)#]+)\.(?:md|rst)(?:#[^)]*)?\)", re.MULTILINE)
_FOREIGN = re.compile(
    r"""<(?:script|img|iframe|link|source|object)\b[^>]*\b(?:src|href|data)=["']?(?:https?:)?//[^"'> ]*"""
    r"""|url\(\s*["']?(?:https?:)?//[^"') ]*|@import[^;]*//[^;]*"""
)
_PICTURE = re.compile(r"^<!-- picture (?P<name>[\w-]+): (?P<what>.+) -->$", re.MULTILINE)
_FOLDER = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<path>[\w./-]+)\)")


def link_to_folders(app: Sphinx, page: str, source: list[str]) -> None:
    """Let a link to a folder of the repository lead to its README.md, or nowhere: a site has no folders to show."""

    def replaced(link: re.Match[str]) -> str:
        folder = (ROOT / page).parent / link["path"]
        if not folder.is_dir():
            return link[0]
        return f"[{link['text']}]({link['path']}/README.md)" if (folder / "README.md").exists() else link["text"]

    source[0] = _FOLDER.sub(replaced, source[0])


def show_pictures(app: Sphinx, page: str, source: list[str]) -> None:
    """Put in the pictures that `make screenshots` has left, in light and dark; without them the text stands alone."""

    def replaced(wanted: re.Match[str]) -> str:
        shown = ""
        for shade in ("light", "dark"):
            picture = PICTURES / f"{wanted['name']}-desktop-{shade}.png"
            if picture.exists():
                place = f"/{picture.relative_to(ROOT)}"
                shown += f"\n```{{image}} {place}\n:alt: {wanted['what']}\n:class: only-{shade}\n```\n"
        return shown

    source[0] = _PICTURE.sub(replaced, source[0])


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to docs/index.md a hidden table of contents for each section of its list."""
    if page == root_doc:
        for section in _SECTION.finditer(source[0]):
            targets = "\n".join(found["target"] for found in _LINK.finditer(section["links"]))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {section['title']}\n\n{targets}\n```\n"


def lead_home(app: Sphinx, error: Exception | None) -> None:
    """Let the site's own address lead to docs/index."""
    if error is None:
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>Documentation</title>'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def refuse_foreign_parts(app: Sphinx, error: Exception | None) -> None:
    """Fail when a page of the site would load anything from elsewhere: it must work without a network."""
    if error is None:
        for file in sorted(path for path in Path(app.outdir).rglob("*") if path.suffix in {".html", ".css"}):
            found = _FOREIGN.search(file.read_text(encoding="utf-8"))
            if found is not None:
                raise ExtensionError(f"{file} loads {found[0]!r} from elsewhere: bring it along")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_to_folders)
    app.connect("source-read", show_pictures)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", lead_home)
    app.connect("build-finished", refuse_foreign_parts)
