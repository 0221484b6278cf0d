"""HTTP/2 where it is offered: many transfers share one connection.

The server here speaks just enough of RFC 9113 for that: it answers any request head with 200 and a short body,
without looking into it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import replace

from tests.pipeline.loopback_server import CERTIFICATES
from tests.pipeline.test_fetch import CONFIG, fetch_all

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_STATUS_200 = b"\x88"  # entry 8 of HPACK's static table (RFC 7541, appendix A)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _read(connection: ssl.SSLSocket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _talk(connection: ssl.SSLSocket) -> None:
    try:
        _read(connection, 24)  # the client's preface
        connection.sendall(_frame(_SETTINGS, 0, 0))
        while True:
            head = _read(connection, 9)
            payload = _read(connection, int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _HEADERS:
                connection.sendall(_frame(_HEADERS, _END_HEADERS, stream, _STATUS_200))
                connection.sendall(_frame(_DATA, _END_STREAM, stream, b"two"))
    except (EOFError, OSError):
        pass
    finally:
        connection.close()


def test_http2_is_used_where_it_is_offered_and_shares_a_connection() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "loopback.pem", CERTIFICATES / "loopback.key")
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    protocols: list[str | None] = []
    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            try:
                connection = context.wrap_socket(listener.accept()[0], server_side=True)
            except OSError:
                return
            protocols.append(connection.selected_alpn_protocol())
            threads.append(threading.Thread(target=_talk, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        config = replace(CONFIG, ca_file=str(CERTIFICATES / "loopback.pem"), per_host_concurrency=8, timeout_s=60.0)
        got = fetch_all([f"https://a.localhost:{port}/{i}" for i in range(40)], config)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10)
        for thread in threads:
            thread.join(10)
    assert [fetched for fetched in got if fetched.body != b"two"] == []
    assert protocols == ["h2"]
