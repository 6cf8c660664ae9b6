"""Let Python find neither cubicweb-web nor cubicweb-file, which needs it, as if not installed."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

HIDDEN = ("cubicweb_web", "cubicweb_file")


class Hide(MetaPathFinder):
    """Finds the hidden packages before all others, and says that there are none."""

    def find_spec(self, fullname: str, *_args: object) -> ModuleSpec | None:
        if fullname.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


sys.meta_path.insert(0, Hide())
