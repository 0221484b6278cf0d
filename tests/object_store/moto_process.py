"""moto as a server of its own process: prints its port, serves until its standard input ends.

    python -m tests.object_store.moto_process

That end comes with the death of whoever started it, however it died.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class KeepAlive(MotoRequestHandler):
    """Connections stay open, as those of a store do; a small answer does not wait for an acknowledgement."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1


class OneAtATime:
    """moto looks at a condition and writes in two steps, which two threads could mix: a store's put is atomic."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self._lock:
            return self._application(environ, start_response)


def main() -> None:
    """Serve."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=KeepAlive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
