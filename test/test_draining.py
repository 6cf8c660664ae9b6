"""Draining is a file beside the pid files, for all the processes of an instance on the host."""

from pathlib import Path
from tempfile import TemporaryDirectory

from base import HasiteTC

from cubicweb_hasite.operations.draining import flag_path, is_draining, set_draining


class DrainingTC(HasiteTC):
    def test_drain(self) -> None:
        config = self.config
        directory = Path(self.enterContext(TemporaryDirectory())) / "run"
        self.addCleanup(setattr, config, "default_pid_file", config.default_pid_file)
        config.default_pid_file = lambda: str(directory / "site-all-in-one.pid")
        assert flag_path(config) == directory / f"{config.appid}.draining"
        assert not is_draining(config)
        set_draining(config, False)
        set_draining(config, True)
        set_draining(config, True)
        assert is_draining(config)
        set_draining(config, False)
        assert not is_draining(config)
        assert list(directory.iterdir()) == []
