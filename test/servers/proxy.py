"""What the servers in front of an instance have in common."""

from pathlib import Path

from servers.support import Server, ServerProcess, free_port, give, listens


class Proxy(Server):
    """A server on a port of its own, with one configuration file in a directory of its own.

    :param directory: a directory for its configuration, its logs and what it caches on disk
    :param file_name: name of the configuration file
    :param error_log: name of a file, if it has one, in which it tells why it does not start
    """

    #: to be set, with the text of the file, once the port is known
    _process: ServerProcess
    _configuration: str
    #: user as whom it is run by root, None if it changes users by itself
    _account: str | None = None

    def __init__(self, directory: Path, file_name: str, error_log: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._path = directory / file_name
        self._error_log = directory / error_log

    def start(self) -> None:
        """Start it and wait until it listens.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        give(self.directory, self._account)
        self._path.write_text(self._configuration)
        try:
            self._process.spawn(lambda: listens(self.port))
        except RuntimeError as error:
            if not self._error_log.is_file():
                raise
            log = self._error_log.read_text(errors="replace")
            raise RuntimeError(f"{error}{log}") from error

    def stop(self) -> None:
        """Stop it as `systemctl stop` does."""
        self._process.stop()

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
