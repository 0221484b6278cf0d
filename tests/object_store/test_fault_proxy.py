"""The server and the proxy that tests of buckets stand on, with the client that the product uses."""

from __future__ import annotations

import concurrent.futures
import random
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError
from obstore.store import from_url

from tests.object_store.fault_proxy import Fault, Faults, Method
from tests.object_store.fixtures import Bucket

QUICK: Any = {
    "max_retries": 12,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=2), "max_backoff": timedelta(milliseconds=20), "base": 2},
}
MULTIPART = random.Random(1).randbytes(9_000_000)


@pytest.fixture
def store(bucket: Bucket) -> Any:
    """A client that does not wait long between its tries."""
    return from_url(bucket.url, retry_config=QUICK)


def test_what_is_put_is_got(store: Any) -> None:
    first = obstore.put(store, "of records/ä+b", b"0123456789", mode="create")
    assert bytes(obstore.get(store, "of records/ä+b").bytes()) == b"0123456789"
    assert bytes(obstore.get_range(store, "of records/ä+b", start=2, end=5)) == b"234"
    ranges = obstore.get_ranges(store, "of records/ä+b", starts=[0, 8], ends=[1, 10])
    assert [bytes(part) for part in ranges] == [b"0", b"89"]
    second = obstore.put(store, "of records/ä+b", b"again", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "of records/ä+b", b"late", mode={"e_tag": first["e_tag"]})
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "of records/ä+b", b"late", mode="create")
    assert obstore.head(store, "of records/ä+b")["e_tag"] == second["e_tag"]
    obstore.copy(store, "of records/ä+b", "copied")
    assert sorted(found["path"] for found in obstore.list(store).collect()) == ["copied", "of records/ä+b"]
    obstore.delete(store, ["copied", "of records/ä+b"])
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "copied")


def test_a_large_object_goes_in_parts(store: Any, bucket: Bucket) -> None:
    obstore.put(store, "large", MULTIPART)
    assert bucket.proxy.counts() == {"POST": 2, "PUT": 2}
    assert bytes(obstore.get(store, "large").bytes()) == MULTIPART


def test_requests_are_counted_and_logged(store: Any, bucket: Bucket) -> None:
    obstore.put(store, "a/b", b"0123456789")
    obstore.get_range(store, "a/b", start=2, end=5)
    obstore.head(store, "a/b")
    obstore.list(store, prefix="a").collect()
    obstore.delete(store, ["a/b", "a/<c>"])
    assert bucket.proxy.counts() == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1}
    assert [(request.method, request.key, request.range) for request, _ in bucket.proxy.log] == [
        ("PUT", "a/b", ""),
        ("GET", "a/b", "bytes=2-4"),
        ("HEAD", "a/b", ""),
        ("LIST", "a/", ""),
        ("DELETE", "a/b a/<c>", ""),
    ]
    bucket.proxy.forget()
    assert not bucket.proxy.counts()


def test_of_many_at_once_one_creates_and_one_updates(store: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:

        def won(number: int, mode: Any) -> bool:
            try:
                obstore.put(store, "lock", str(number).encode(), mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        assert sum(pool.map(lambda number: won(number, "create"), range(32))) == 1
        tag = obstore.head(store, "lock")["e_tag"]
        assert sum(pool.map(lambda number: won(number, {"e_tag": tag}), range(100, 132))) == 1


@pytest.mark.parametrize("fault", ["500", "503", "slow", "cut request", "cut answer", "lost answer"])
def test_the_client_tries_again(fault: Fault, store: Any, bucket: Bucket) -> None:
    proxy = bucket.proxy
    proxy.faults = Faults(slow_s=0.01)
    tries: dict[Method, Callable[[], Any]] = {
        "PUT": lambda: obstore.put(store, "key", MULTIPART[:3_000_000]),
        "GET": lambda: bytes(obstore.get(store, "key").bytes()) == MULTIPART[:3_000_000],
        "HEAD": lambda: obstore.head(store, "key")["size"] == 3_000_000,
        "LIST": lambda: len(obstore.list(store).collect()) == 1,
    }
    for method, request in tries.items():
        proxy.once(fault, method)
        if (method, fault) == ("LIST", "cut answer"):  # the client does not: nothing does if the product does not
            with pytest.raises(GenericError):
                request()
        else:
            assert request()
    assert proxy.fault_counts() == {fault: 4}


@pytest.mark.parametrize("fault", ["lost answer", "cut answer"])
def test_a_conditional_put_whose_answer_is_lost_is_told_as_failed(fault: Fault, store: Any, bucket: Bucket) -> None:
    bucket.proxy.once(fault, "PUT")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"ours", mode="create")
    assert bytes(obstore.get(store, "key").bytes()) == b"ours"
    tag = obstore.head(store, "key")["e_tag"]
    bucket.proxy.once(fault, "PUT")
    with pytest.raises(PreconditionError):
        obstore.put(store, "key", b"ours too", mode={"e_tag": tag})
    assert bytes(obstore.get(store, "key").bytes()) == b"ours too"


def test_a_conflict_is_told_as_an_object_that_is_not_there(store: Any, bucket: Bucket) -> None:
    bucket.proxy.once("409", "PUT")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"", mode="create")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "key")


def test_a_client_that_dies_in_a_put_leaves_nothing(store: Any, bucket: Bucket) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(bucket.proxy.endpoint).port or 0)) as client:
        client.sendall(f"PUT /{bucket.name}/key HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "key")


def test_a_store_that_refuses_conditions_is_asked_in_vain(store: Any, bucket: Bucket) -> None:
    bucket.proxy.faults = Faults(shares={"501": 1.0})
    with pytest.raises(GenericError, match="501 Not Implemented"):
        obstore.put(store, "key", b"", mode="create")
    assert obstore.put(store, "key", b"")


def test_the_end_of_an_upload_in_parts_may_be_told_as_failed(store: Any, bucket: Bucket) -> None:
    bucket.proxy.once("cut answer", "POST", "^begin")
    with pytest.raises(GenericError):
        obstore.put(store, "begin", MULTIPART)

    def parts() -> Iterator[bytes]:
        yield MULTIPART
        bucket.proxy.once("cut answer", "POST", "^end")

    with pytest.raises(FileNotFoundError):  # the client gives the upload up, which is no more: it is the object
        obstore.put(store, "end", parts())
    assert bytes(obstore.get(store, "end").bytes()) == MULTIPART


def test_a_share_of_requests_is_spoilt_and_the_same_ones_again(store: Any, bucket: Bucket) -> None:
    faults = Faults(shares={"500": 0.1, "cut request": 0.05, "lost answer": 0.05}, seed=3, methods={"PUT"}, keys="^a")
    bucket.proxy.faults = faults

    def spoilt() -> set[tuple[str, Fault]]:
        bucket.proxy.forget()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: obstore.put(store, f"a{number}", b""), range(200)))
        obstore.put(store, "b", b"")
        found = {(request.key, fault) for request, fault in bucket.proxy.log if fault}
        bucket.proxy._numbers.clear()
        return found

    first = spoilt()
    assert 20 <= len(first) <= 80
    assert {fault for _, fault in first} == set(faults.shares)
    assert spoilt() == first
    bucket.proxy.forget()
    bucket.proxy.faults = Faults(shares={"500": 1.0}, at_most=3)
    obstore.get(store, "b")
    assert bucket.proxy.fault_counts() == {"500": 3}


def test_a_store_without_conditional_puts_overwrites(store: Any, bucket: Bucket) -> None:
    bucket.proxy.conditional_puts = False
    obstore.put(store, "key", b"first", mode="create")
    obstore.put(store, "key", b"second", mode="create")
    obstore.put(store, "key", b"third", mode={"e_tag": '"0"'})
    assert bytes(obstore.get(store, "key").bytes()) == b"third"


@pytest.mark.parametrize("server", ["none", "silent"])
def test_a_dead_endpoint_is_told_of_soon(server: str, bucket: Bucket) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "silent":
            listener.listen()
        store: Any = from_url(
            bucket.url,
            config={"endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}"},
            client_options={"allow_http": True, "read_timeout": "200ms", "connect_timeout": "200ms"},
            retry_config=QUICK | {"retry_timeout": timedelta(seconds=0.5)},
        )
        with pytest.raises(GenericError, match="error sending request"):
            obstore.get(store, "key")
