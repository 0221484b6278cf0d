"""Fixtures: an S3-speaking server on loopback, and a bucket of its own for each test."""

from __future__ import annotations

import http.client
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.object_store.fault_proxy import FaultProxy

__all__ = ["Bucket", "bucket", "new_bucket", "object_store"]

_numbers = itertools.count()


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, and the proxy through which its clients go."""

    name: str
    proxy: FaultProxy

    @property
    def url(self) -> str:
        """s3://NAME."""
        return f"s3://{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client in another process needs."""
        return {
            "AWS_ACCESS_KEY_ID": "an-access-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def new_bucket(proxy: FaultProxy, store: str) -> Bucket:
    """A bucket that no test has used."""
    name = f"bucket-{next(_numbers)}"
    connection = http.client.HTTPConnection(urlsplit(store).netloc)
    connection.request("PUT", f"/{name}")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    return Bucket(name, proxy)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The endpoint of moto in a process of its own, started when a test first asks for it."""
    command = [sys.executable, "-m", "tests.object_store.moto_process"]
    repository = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket behind a proxy without faults; the environment points at it."""
    with FaultProxy(object_store) as proxy:
        made = new_bucket(proxy, object_store)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made
