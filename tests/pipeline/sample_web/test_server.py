from __future__ import annotations

import http.client
import io
import json
import socket
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from email.message import Message
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import pytest
from PIL import Image

from pipeline.errors import ServerError
from pipeline.sample_web import serving

Row = dict[str, Any]
Find = Callable[..., list[tuple[str, str, dict[str, Any]]]]


@pytest.fixture
def find(sample_web: Path) -> Find:
    """Routes of server.json by what they do: (site, target, route)."""
    routes = json.loads((sample_web / "server.json").read_bytes())["routes"]

    def find(**wanted: object) -> list[tuple[str, str, dict[str, Any]]]:
        found = []
        for key, route in routes.items():
            site, slash, target = key.partition("/")
            if all(route.get(name) == value for name, value in wanted.items()):
                found.append((site, slash + target, route))
        assert found
        return found

    return find


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes


def _ask(port: int, site: str, target: str) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", target.replace(" ", "%20"), headers={"Host": f"{site}.localhost:{port}"})
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())


def _raw(port: int, site: str, target: str, *, at_least: int) -> bytes:
    """The first bytes of an answer that may never end."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: {site}.localhost\r\n\r\n".encode())
        data = b""
        while len(data) < at_least and (part := client.recv(65536)):
            data += part
    return data


def test_good_pictures_arrive_and_show_what_the_truth_says(served: int, truth: list[Row]) -> None:
    formats = set()
    connections: dict[str, http.client.HTTPConnection] = {}
    for row in truth:
        if row["verdict"] == "kept" and row["url"].isascii() and " " not in row["url"]:
            host, _, path = row["url"].partition("#")[0].removeprefix("http://").partition("/")
            connection = connections.setdefault(host, http.client.HTTPConnection("127.0.0.1", served, timeout=5))
            for _ in range(6):  # redirects, and servers that recover
                connection.request("GET", f"/{path}", headers={"Host": host})
                answer = connection.getresponse()
                body = answer.read()
                if 300 <= answer.status < 400:
                    path = answer.headers["Location"].partition(".localhost:")[2].partition("/")[2] or (
                        answer.headers["Location"].removeprefix("/")
                    )
                elif answer.status == 200:
                    break
            assert answer.status == 200, row
            if answer.headers["Content-Encoding"] == "gzip":
                body = zlib.decompress(body, 31)
            with Image.open(io.BytesIO(body)) as image:
                image.load()
                formats.add((image.format, image.mode))
                assert min(image.size) >= 32
                assert image.format is not None
    for connection in connections.values():
        connection.close()
    assert {("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("WEBP", "RGB")} <= formats
    assert {name for name, _ in formats} >= {"GIF", "AVIF", "BMP", "TIFF"}


def test_sites_are_told_apart_by_host(served: int, find: Find) -> None:
    site, target, _ = find(type="image/jpeg", status=None, manner=None)[0]
    assert _ask(served, site, target).status == 200
    assert _ask(served, "nosuchsite", target).status == 404
    assert _ask(served, site, "/nothing").status == 404
    assert _ask(served, site, "/robots.txt").status == 200


def test_pages_are_served_with_their_charset_and_opt_outs(served: int, sample_web: Path, truth: list[Row]) -> None:
    told = set()
    for url in sorted({row["page_url"] for row in truth})[:60]:
        site, _, path = url.removeprefix("http://").partition("/")
        answer = _ask(served, site.partition(".")[0], f"/{path}")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.body == (sample_web / "pages" / site.partition(".")[0] / path).read_bytes()
        told.add(answer.headers["X-Robots-Tag"])
    assert None in told


def test_a_fault_that_recovers_does_so_at_the_second_attempt_of_its_url(served: int, find: Find) -> None:
    for status in (500, 503, 429):
        site, target, route = find(manner="recover", status=status)[-1]
        statuses = [_ask(served, site, target).status for _ in range(3)]
        # Other tests may have asked before; a fault never comes back.
        assert statuses in ([status, 200, 200], [200, 200, 200])
        assert route["file"]


def test_bodies_that_end_early_announce_more_than_they_send(served: int, find: Find) -> None:
    for manner in ("short", "short_chunked"):
        site, target, _ = find(manner=manner)[0]
        with pytest.raises((http.client.IncompleteRead, ValueError)):
            _ask(served, site, target)


def test_trickling_and_stalling_bodies_do_not_come_to_an_end(served: int, find: Find) -> None:
    for manner, most in (("trickle", 100), ("stall", 80)):
        site, target, _ = find(manner=manner)[0]
        with socket.create_connection(("127.0.0.1", served), timeout=0.6) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: {site}.localhost\r\n\r\n".encode())
            data = b""
            try:
                for _ in range(2):
                    data += client.recv(65536)
            except TimeoutError:
                pass
        head, _, body = data.partition(b"\r\n\r\n")
        assert int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) > 500
        assert len(body) < most


def test_huge_bodies_announce_their_length_or_do_not(served: int, find: Find) -> None:
    site, target, _ = find(manner="huge")[0]
    head = _raw(served, site, target, at_least=1000)
    assert int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) > 8 * 2**20
    site, target, _ = find(manner="huge_chunked")[0]
    head = _raw(served, site, target, at_least=9 * 2**20)
    assert b"Transfer-Encoding: chunked" in head[:400]
    assert len(head) >= 9 * 2**20


def test_redirects_lead_on_in_circles_or_into_private_networks(served: int, find: Find) -> None:
    places = []
    for site, target, _route in find(status=302):
        answer = _ask(served, site, target)
        assert answer.status == 302
        places.append(answer.headers["Location"])
    assert {"http://10.0.0.1/picture.jpg", "http://169.254.169.254/latest/meta-data/"} <= set(places)
    assert "file:///etc/hostname" in places


def test_pipelined_requests_are_answered_in_order(served: int, find: Find) -> None:
    (site, first, _), (_, second, _) = [
        entry
        for entry in find(type="image/jpeg", manner=None, status=None)
        if entry[0] == "cdn" and " " not in entry[1]
    ][:2]
    asked = "".join(f"GET {path} HTTP/1.1\r\nHost: {site}.localhost\r\n\r\n" for path in (first, "/none", second))
    with socket.create_connection(("127.0.0.1", served), timeout=5) as client:
        client.sendall(asked.encode())
        reader = client.makefile("rb")
        statuses = []
        for _ in range(3):
            statuses.append(int(reader.readline().split(b" ")[1]))
            length = 0
            while (line := reader.readline()) != b"\r\n":
                if line.startswith(b"Content-Length: "):
                    length = int(line.split(b" ")[1])
            assert len(reader.read(length)) == length > 0
        reader.close()
    assert statuses == [200, 404, 200]


def test_a_port_in_use_is_a_server_error_that_names_port_and_remedy(served: int, sample_web: Path) -> None:
    with pytest.raises(ServerError, match=rf"{served}.*in use.*--port"), serving(sample_web):
        pass


def test_a_directory_without_a_sample_web_is_a_server_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no sample web"), serving(tmp_path):
        pass


def test_the_server_ends_with_its_standard_input(tmp_path: Path, sample_web: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for name in ("server.json",):
        (tmp_path / name).write_bytes((sample_web / name).read_bytes())
    (tmp_path / "sample_web.json").write_text(json.dumps({"port": port}))
    command = [sys.executable, "-m", "pipeline.sample_web", "serve", "--path", str(tmp_path)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert str(port) in process.stdout.readline()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
