"""The anchors of headings; a module of its own, since Sphinx must be able to import it by name."""

import re


def anchor(title: str) -> str:
    """Give a heading's anchor as GitHub spells it, which the pages' links are written for."""
    return re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
