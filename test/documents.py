"""The documents of the project."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document, as GitLab and Sphinx make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
