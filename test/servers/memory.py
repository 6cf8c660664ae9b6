"""How much memory a process takes."""

import re
from pathlib import Path


class Memory:
    """How much memory a process has taken since this was made, at most, in bytes."""

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc", str(pid))
        # proc(5): resets the peak to what is taken now
        (self._directory / "clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def peak(self) -> int:
        """Return by how much it has grown at most."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        status = (self._directory / "status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024
