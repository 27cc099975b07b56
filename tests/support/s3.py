"""A real S3 server on loopback for tests: seaweedfs, from its package."""

import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from pyarrow import fs

from support.waiting import wait_until

ACCESS_KEY = "lakebedtest"
SECRET_KEY = "lakebedtestsecret"
BUCKET = "lake"


def free_ports(count: int) -> list[int]:
    """Free ports below 50,000 whose twins 10,000 above, where seaweedfs puts gRPC, are free too."""
    found: list[int] = []
    port = 20_000
    while len(found) < count and port < 50_000:
        port += 1
        try:
            for wanted in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", wanted))
        except OSError:
            continue
        found.append(port)
    return found


class S3Server:
    """One seaweedfs process with its folder and an empty bucket of so many volumes of 64 MiB."""

    def __init__(self, work: Path, volumes: int = 20) -> None:
        self.work = work
        self.volumes = volumes
        self.process: subprocess.Popen[bytes] | None = None
        self.ports: list[int] = []

    @property
    def port(self) -> int:
        """Where S3 is spoken."""
        return self.ports[3]

    def start(self) -> "S3Server":
        """Starts it and waits until it takes a bucket. After a stop it comes back at the same place
        with what it held."""
        folder = self.work / "s3"
        folder.mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "admin", "credentials": credentials, "actions": actions}
        keys = self.work / "keys.json"
        keys.write_text(json.dumps({"identities": [identity]}))
        self.ports = self.ports or free_ports(4)
        master, volume, filer, port = self.ports
        weed = shutil.which("weed", path=str(Path(sys.executable).parent))
        assert weed, "weed is missing beside the interpreter; run `make setup`"
        command = [
            *(weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={master}", f"-volume.port={volume}"),
            *("-filer", f"-filer.port={filer}", "-s3", f"-s3.port={port}"),
            *(f"-s3.config={keys}", "-s3.iam=false", "-s3.port.iceberg=0"),
            "-s3.port.lance=0",
            *("-master.volumeSizeLimitMB=64", f"-volume.max={self.volumes}"),
            "-master.telemetry=false",
        ]
        with (self.work / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._make_bucket, "the S3 server", timeout_s=60, poll_s=0.1)
        return self

    def filesystem(self) -> fs.S3FileSystem:
        """The store as pyarrow sees it."""
        return fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            connect_timeout=2,
            request_timeout=5,
        )

    def part_uploads(self) -> set[str]:
        """The multipart uploads that are neither completed nor aborted."""
        folder = f"http://127.0.0.1:{self.ports[2]}/buckets/{BUCKET}/.uploads/"
        request = urllib.request.Request(folder, headers={"accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return {entry["FullPath"] for entry in json.load(answer)["Entries"] or []}
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return set()
            raise

    def _make_bucket(self) -> bool:
        assert self.process.poll() is None, (self.work / "s3.log").read_text()[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            self.filesystem().create_dir(BUCKET)
        except OSError:
            return False
        return True

    def environment(self) -> dict[str, str]:
        """What a client of the store needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """SIGKILL; a gentle end takes it over ten seconds."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None
