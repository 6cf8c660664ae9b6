"""An object store that speaks S3: moto's server, in memory."""

import sys
from pathlib import Path

import requests

from servers.support import Server, ServerProcess, free_port


class ObjectStore(Server):
    """A server of S3 with one bucket, which is lost with it.

    :param directory: a directory for its log
    """

    bucket = "site"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = ServerProcess(
            [
                str(Path(sys.executable).with_name("moto_server")),
                "--host=127.0.0.1",
                f"--port={self.port}",
            ],
            directory / "moto.log",
        )

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the programs that use it (boto3, cubicweb_s3storage.storages)."""
        return {
            "AWS_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "site",
            "AWS_SECRET_ACCESS_KEY": "site",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start the server, with an empty bucket.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        self._process.spawn(self._makes_bucket, timeout=60)

    def stop(self) -> None:
        """Stop the server."""
        self._process.stop()

    def _makes_bucket(self) -> bool:
        try:
            return requests.put(f"{self.url}/{self.bucket}", timeout=5).ok
        except requests.RequestException:
            return False
