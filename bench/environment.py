"""Make the packages of the project and the servers of its tests importable, by being imported."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent
_VENV = _CHECKOUT / ".venv"

if find_spec("cubicweb") is None:  # `python3` is not that of the project
    if not (_VENV / "bin" / "python").exists() or Path(sys.prefix) == _VENV:
        sys.exit(f"cubicweb is not installed for {sys.executable}: run `tools/setup test`")
    os.execv(_VENV / "bin" / "python", [str(_VENV / "bin" / "python"), *sys.argv])

sys.path.insert(1, str(_CHECKOUT / "test"))
