"""Run the program with the Python of `.venv` if that of the caller has not what it needs."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_VENV = Path(__file__).resolve().parent.parent / ".venv"

if find_spec("servers") is None:  # see test/pyproject.toml
    if not (_VENV / "bin" / "python").exists() or Path(sys.prefix) == _VENV:
        sys.exit(f"{sys.executable} has not what the tests need: run `tools/setup test`")
    os.execv(_VENV / "bin" / "python", [str(_VENV / "bin" / "python"), *sys.argv])
