"""An object store that speaks S3: moto's server, in memory."""

import re
import sys
from pathlib import Path
from typing import Any

import boto3
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

    def refuse(self, *, refuses: bool) -> None:
        """Let the store refuse its clients, whose keys it does not know (403), or not any more."""
        allowed = 0 if refuses else 10**9
        requests.post(f"{self.url}/moto-api/reset-auth", data=str(allowed), timeout=5)

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._client().delete_object(Bucket=self.bucket, Key=key)

    def read(self, key: str) -> bytes:
        """Return the data of an object."""
        return self._client().get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        """Make an object, or give it other data."""
        self._client().put_object(Bucket=self.bucket, Key=key, Body=data)

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="site",
            aws_secret_access_key="site",
            region_name="us-east-1",
        )

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        return re.findall("<Key>(.*?)</Key>", requests.get(f"{self.url}/{self.bucket}").text)

    def reset(self) -> None:
        """Remove the bucket, with all objects."""
        requests.post(f"{self.url}/moto-api/reset", timeout=5).raise_for_status()

    def stop(self) -> None:
        """Stop the server."""
        self._process.stop()

    def _makes_bucket(self) -> bool:
        try:
            return requests.put(f"{self.url}/{self.bucket}", timeout=5).ok
        except requests.RequestException:
            return False
