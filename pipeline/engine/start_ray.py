"""Starts a Ray of one's own, or reaches a cluster: the one room for the rules of both.

    address, RAY_ADDRESS --none--> a Ray of this run alone: loopback, its own token, files in a private directory
                         `-some--> token of the user's environment -> probe (20 s at most) -> ray.init

A Ray of one's own needs nothing of the environment and leaves nothing in it. A cluster is taken as it is, with the
token that Ray's own tools would take (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token): `ray start` turns the
token on where it finds one, but `ray.init` with an address never does (`ray._private.authentication`, 2.60).

Every way to fail is one EngineError: Ray would wait ten minutes for an address that nobody serves, and end the
process without a word of Python a minute after a cluster's head has died.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.probe_ray import REFUSED
from pipeline.errors import EngineError
from pipeline.storage.scratch import scratch_directory

__all__ = ["RaySession", "RayStart", "start_ray"]

_ANY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray listens on every interface
    "RAY_AUTH_MODE": "token",
}
_CONNECT_S = 5.0
_PROBE_S = 20.0
"""How long a cluster may take to answer; with the connection before it, the user knows within 30 s."""
_GONE_S = 10.0
"""How long a cluster's head may be away in mid-run: it may be restarted, but after 60 s Ray ends the process."""
_LOOK_EVERY_S = 2.0
_LONGEST_PLACE = 25
"""Bytes of a directory's name in which Ray's sockets fit: of the 103 that macOS allows (Linux 107), 78 are
/ow-xxxxxxxx/r/session_DATE_TIME_MICROSECONDS_PROCESS/sockets/plasma_store."""


@dataclass(frozen=True, kw_only=True)
class RayStart:
    """What to start, or what to reach."""

    address: str | None
    """host:port, ray://host:port or auto; None takes RAY_ADDRESS, else a Ray of this run alone."""
    num_cpus: int | None
    """Of a Ray of one's own; None takes all of the machine."""
    object_store_bytes: int
    """Of a Ray of one's own."""
    packages: Sequence[str]
    """Names of our packages that travel to a cluster's nodes."""
    option: str
    """The option that names the address, for messages."""
    otherwise: str
    """What works without Ray, for messages."""
    environment: Mapping[str, str] | None = None
    """Variables that Ray reads, beside those of every start."""


class RaySession:
    """A Ray that answers."""

    def __init__(self, ray: Any, *, owned: bool) -> None:
        self.ray = ray
        self.owned = owned
        """Whether it is this run's own, on this machine alone."""
        self._where = "the Ray of this process" if not owned else "Ray"
        self._head = _head_of(ray)
        self._daemons = _daemons() if owned else {}
        self._looked = self._seen = time.monotonic()
        self.answers = True
        """Whether it did when it was last looked at; one that does not can be asked nothing more."""

    def check(self) -> bool:
        """Raise EngineError where Ray's daemons are gone; cheap, so call it as often as you like.

        True where Ray has answered this very moment. Only then ask its head for more: one that is gone keeps whoever
        asks it for a minute, and then Ray ends the process.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = now
        for process, name in self._daemons.items():
            if not _runs(process):
                self.answers = False
                raise EngineError(f"{self._where}: its process {name} died (killed, or out of memory); {_AGAIN}")
        if self._head is None or _connects(*self._head, timeout_s=_LOOK_EVERY_S) is None:
            self._seen = time.monotonic()
            return True
        if time.monotonic() - self._seen > _GONE_S:
            host, port = self._head
            self.answers = False
            raise EngineError(
                f"{self._where}: its head at {host}:{port} has not answered for {_GONE_S:.0f} s; {_AGAIN}"
            )
        return False


_AGAIN = "run again to go on from here"


@contextmanager
def start_ray(start: RayStart) -> Iterator[RaySession]:
    """Ray for as long as the block runs. Raises EngineError, in one line, where there is none to be had.

    Without an address, a Ray that the caller has up already is taken as it is, and stays up.
    """
    address = start.address or os.environ.get("RAY_ADDRESS") or None
    with ExitStack() as stack:
        stack.enter_context(_environment({**_ANY_ENVIRONMENT, **(start.environment or {})}))
        import ray

        if start.address is None and ray.is_initialized():
            yield RaySession(ray, owned=False)
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None or address == "local":
            where = "a local Ray"
            options |= {
                "address": "local",  # left out, Ray would join whatever cluster it finds on this machine
                "num_cpus": start.num_cpus,
                "include_dashboard": False,
                "object_store_memory": start.object_store_bytes,
            }
            stack.enter_context(_environment({**_LOCAL_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}))
            options["_temp_dir"] = str(stack.enter_context(scratch_directory("ow-", _place_of_sockets())))
        else:
            where = f"the cluster at {address}"
            stack.enter_context(_environment(_token_mode(where)))
            _probe(address, where, start)
            root = Path(__file__).resolve().parents[2]
            modules = [str(root / name) for name in start.packages]
            options |= {"address": address, "runtime_env": {"py_modules": modules}}
        _read_environment()
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises bare Exceptions when it times out at its start
            raise EngineError(_failed(where, str(error) or type(error).__name__, start)) from error
        stack.callback(ray.shutdown)
        yield RaySession(ray, owned=address is None or address == "local")


def _failed(where: str, message: str, start: RayStart) -> str:
    first_line = message.strip().splitlines()[0].strip().rstrip(".:;")
    return f"cannot start or reach {where}: {first_line}; check {start.option} and RAY_ADDRESS, or {start.otherwise}"


# --- what Ray reads of the environment -----------------------------------------------------------


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables for the block, and what was there before after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _read_environment() -> None:
    """Let Ray see the environment as it is: it keeps what it read at its import, and the first token that it saw."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # its stub leaves them out

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _token_mode(where: str) -> dict[str, str]:
    """RAY_AUTH_MODE as `ray start` would set it. Raises EngineError for a token that is asked for and not there."""
    mode, path = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if mode is not None and mode.lower() != "token":
        return {}
    if os.environ.get("RAY_AUTH_TOKEN"):
        return {"RAY_AUTH_MODE": "token"}
    file = Path(path) if path else Path.home() / ".ray" / "auth_token"
    try:
        found = bool(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        found = False
    if found:
        return {"RAY_AUTH_MODE": "token"}
    if path:
        raise EngineError(f"{where}: RAY_AUTH_TOKEN_PATH names {path}, which holds no token; correct or unset it")
    if mode is not None:
        raise EngineError(
            f"{where}: RAY_AUTH_MODE is token, but there is no token; put the cluster's into RAY_AUTH_TOKEN, or into "
            f"{file}"
        )
    return {}


# --- whether a cluster answers -------------------------------------------------------------------


def _probe(address: str, where: str, start: RayStart) -> None:
    """Raise EngineError unless a Ray answers at `address`, and takes our token.

    In a process of its own: Ray waits where nobody can interrupt it, and prints its own lines meanwhile.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        problem = _connects(host.strip("[]"), int(port), timeout_s=_CONNECT_S)
        if problem is not None:
            raise EngineError(_failed(where, f"nobody answers there ({problem})", start))
    command = [sys.executable, "-m", "pipeline.engine.probe_ray", address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_root(), os.environ.get("PYTHONPATH")]))}
    try:
        answer = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_S
        )
    except subprocess.TimeoutExpired:
        message = f"what listens there has not answered as a Ray for {_PROBE_S:.0f} s"
        raise EngineError(_failed(where, message, start)) from None
    if answer.returncode == REFUSED:
        raise EngineError(
            f"{where} refuses {_token_name()}: it needs the cluster's own, the same on every node, in RAY_AUTH_TOKEN, "
            "in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
        )
    if answer.returncode:
        raise EngineError(_failed(where, answer.stdout or f"status {answer.returncode} of its probe", start))


def _token_name() -> str:
    """What was sent, in words."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        mode = os.environ.get("RAY_AUTH_MODE")
        return "a run without a token" + (f" (RAY_AUTH_MODE is {mode})" if mode else "")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the token in RAY_AUTH_TOKEN"
    return f"the token in {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"


def _root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _connects(host: str, port: int, *, timeout_s: float) -> str | None:
    """Why nothing takes a connection there; None where something does."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


# --- whether it still does -----------------------------------------------------------------------


def _head_of(ray: Any) -> tuple[str, int] | None:
    """Where the cluster's head listens; None under ray://, whose own connection tells."""
    if ray.util.client.ray.is_connected():
        return None
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _daemons() -> dict[int, str]:
    """Ray's two daemons among this process's children; empty on a system without /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        name = before.partition("(")[2]
        if int(after.split()[1]) == os.getpid() and name in ("raylet", "gcs_server"):
            found[int(path.parent.name)] = name
    return found


def _place_of_sockets() -> Path | None:
    """/tmp where TMPDIR's name is too long for sockets below it, as macOS's own is; None for TMPDIR."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_PLACE else Path("/tmp")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
