"""Exports on a hub: the few calls of huggingface_hub, answered on loopback.

What it sends by Xet, which is Hugging Face's own way for large files, is not tried here: `HF_HUB_DISABLE_XET`.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY


class _Hub(ThreadingHTTPServer):
    """Model repositories, as far as a push goes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created: list[dict[str, Any]] = []
        self.large: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.refuses = False


class _Answers(BaseHTTPRequestHandler):
    server: _Hub

    def do_POST(self) -> None:  # of http.server
        hub, body = self.server, self._body()
        if hub.refuses:
            return self._answer({"error": "no such token"}, 401)
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            return self._answer({"url": f"{hub.url}/me/model", "id": "me/model", "name": "me/model"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.url}/large/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        assert "/commit/" in self.path, self.path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.large[value["oid"]]
        answer = {"commitUrl": f"{hub.url}/me/model/commit/abc", "commitOid": "abc", "success": True}
        return self._answer(answer)

    def do_PUT(self) -> None:  # of http.server
        self.server.large[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub() -> Iterator[_Hub]:
    with _Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CODE = """
import sys
from pathlib import Path
from training.errors import OutputError
from training.exports.hub import push
try:
    print(push(Path(sys.argv[1]), "me/model", private=True, texts={"README.md": "# A model"}))
except OutputError as error:
    print(error)
"""


def test_an_export_is_pushed_in_one_commit(hub: _Hub, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "config.json").write_text("{}")
    (export / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    # huggingface_hub reads its environment once, so in a process of its own.
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_the_test"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}

    def pushed() -> str:
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(export)],
            env=environment | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert pushed() == f"{hub.url}/me/model/commit/abc"
    assert hub.files == {
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 40,
        "README.md": b"# A model",
    }
    assert list(hub.large.values()) == [hub.files["model.safetensors"]]
    assert hub.created[0]["visibility"] == "private"
    hub.refuses = True
    line = pushed()
    assert line.startswith("--push me/model: ")
    assert line.endswith(f"the export itself is whole, at {export}")
    assert "401" in line
    assert "\n" not in line
