"""The folder of a server: its files, the settings in `server.toml`, and the server that runs on it.

server.toml      address, names, lifetimes, limits
ca/              ca.pem, ca.key: the certificate authority
registry.sqlite  sites, tokens, certificates, node keys
audit.jsonl      what happened, hash-chained
superlink/       Flower's SuperLink: state, its TLS files, FLWR_HOME, logs
studies/         one folder a run
findings/        where the report of each study is, and which sites may have it
server.pid       locked while a server runs on this folder: the lock ends with the process
server.json      address and state of that server
messages.sent    touched whenever a study has sent messages to sites
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from moretta.shared.core.atomic import locked, write_atomic
from moretta.shared.core.commented_toml import commented_toml
from moretta.shared.core.errors import EnrollmentError, HomeError
from moretta.shared.core.printable import from_toml
from moretta.shared.enrollment import join_address, split_address

SETTINGS_FILE, FINDINGS_FOLDER = "server.toml", "findings"
CONNECTION = "moretta"
"""Name of the SuperLink's connection in the FLWR_HOME that the server keeps."""
MIB = 1 << 20
_Hours = Annotated[float, Field(gt=0, le=24 * 366)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Lifetimes(_Section):
    """`[lifetimes]`: how long what the authority issues is good for."""

    site_hours: _Hours = 24.0
    """A site's certificate; it renews itself at two thirds."""
    server_hours: _Hours = 24.0 * 30
    """The port's own certificate; renewed at two thirds, without a restart."""
    token_hours: _Hours = 72.0
    """A join string, where `moretta server token` has no --hours."""


class Limits(_Section):
    """`[limits]`: what one site, and all together, may request of the port."""

    max_call_bytes: int = Field(default=128 * MIB, ge=MIB, le=1024 * MIB)
    """Body of one relayed request, and of one response."""
    calls_per_second: float = Field(default=100.0, gt=0, le=100_000)
    """Calls of one site per second, in the long run. Faster calls are slowed down before they are refused."""
    burst_calls: int = Field(default=400, ge=1, le=100_000)
    """Calls that one site may make at once after a pause."""
    site_calls_per_day: int = Field(default=250_000, ge=1000)
    """Calls of one site per day: each is a line of the audit log, of about 400 bytes. An idle site makes 8,000."""
    site_bytes_per_day: int = Field(default=64 * 1024 * MIB, ge=MIB)
    """Bytes in bodies of one site's calls per day: Flower's state grows with them, and does not shrink."""
    site_calls_in_flight: int = Field(default=16, ge=2, le=1000)
    """Calls of one site at a time; one may be held until there is a message. As many may wait; others are refused."""
    calls_open: int = Field(default=512, ge=16, le=10_000)
    """Open calls of all callers, waiting ones included. An eighth is kept for callers that have none open."""
    site_bytes_in_flight: int = Field(default=256 * MIB, ge=MIB)
    """Bytes in calls of one site at a time."""
    bytes_in_flight: int = Field(default=1024 * MIB, ge=MIB)
    """Bytes in calls of all sites at a time: bounds the memory of the relay."""
    patience_seconds: float = Field(default=10.0, gt=0, le=300)
    """How long a call waits for room before it is refused with RESOURCE_EXHAUSTED."""


class ServerSettings(_Section):
    """The whole of `server.toml`."""

    address: str
    """HOST:PORT that join strings carry: where sites reach the server."""
    listen: str
    """HOST:PORT that the port is opened on."""
    names: tuple[str, ...] = Field(min_length=1)
    """DNS names and IP addresses that the server's certificate is for."""
    superlink_port: int = Field(default=0, ge=0, le=65_535)
    """Loopback port of Flower's SuperLink; 0 takes a free one."""
    lifetimes: Lifetimes = Lifetimes()
    limits: Limits = Limits()

    @field_validator("address", "listen")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            split_address(value)
        except EnrollmentError as error:
            raise ValueError(error.message) from error
        return value


class ServerHome:
    """Paths within one server's folder, as the module lists them, and its settings."""

    def __init__(self, root: Path, settings: ServerSettings) -> None:
        self.root, self.settings = root, settings
        self.authority = root / "ca"
        self.registry = root / "registry.sqlite"
        self.audit_log = root / "audit.jsonl"
        self.superlink = root / "superlink"
        self.studies = root / "studies"
        self.findings = root / FINDINGS_FOLDER
        self.lock_file = root / "server.pid"
        self.state_file = root / "server.json"
        self.sent_file = root / "messages.sent"

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read the settings of a folder that `moretta server init` made; raises HomeError where they cannot be used."""
        path = root / SETTINGS_FILE
        try:
            content = from_toml(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise HomeError(
                f"{root} is no folder of a server",
                expected=f"a {SETTINGS_FILE} in it",
                fix="make one with: moretta server init DIR --name HOST",
            ) from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise HomeError(f"{path} cannot be read: {error}", expected="a TOML file in UTF-8") from error
        try:
            return cls(root.resolve(), ServerSettings.model_validate(content))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise HomeError(f"{path} cannot be used: {problems}", fix="correct the keys named above") from error


def settings_toml(*, host: str, listen: str, port: int, names: tuple[str, ...]) -> str:
    """The text of a new `server.toml`: every setting under its explanation."""
    address = join_address(host, port)
    return commented_toml(ServerSettings(address=address, listen=join_address(listen, port), names=names))


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs."""

    pid: int
    started: float
    updated: float
    """Seconds since 1970. A server updates this every few seconds: one that is much older hangs."""
    listen: str
    """HOST:PORT of the guarded port as it was bound, then as sites reach it, then of the SuperLink on loopback."""
    address: str
    superlink: str
    superlink_ca: str
    """File with the certificate that the SuperLink is known by, PEM."""
    flwr_home: str
    """FLWR_HOME in which the connection `moretta` leads to the SuperLink."""
    problems: Mapping[str, str | None]
    """Problem of each part (`registry`, `authority`, `superlink`); None where there is none."""
    mark: str
    """Mark in the environment of every process that belongs to this server."""

    @property
    def healthy(self) -> bool:
        """Everything that a study needs is there."""
        return not any(self.problems.values())

    def write(self, home: ServerHome) -> None:
        """Write it for the commands beside it."""
        write_atomic(home.state_file, json.dumps(asdict(self), indent=1) + "\n", mode=0o600)


def running_server(home: ServerHome) -> RunningServer:
    """The server that runs on a folder; raises HomeError for none, or one that has not written yet where it listens."""
    pid = running_pid(home)
    if pid is None:
        raise HomeError(f"no server runs on {home.root}", fix=f"start it with: moretta server up {home.root}")
    try:
        content: dict[str, Any] = json.loads(home.state_file.read_text(encoding="utf-8"))
        state = RunningServer(**content)
    except (OSError, ValueError, TypeError):
        state = None
    if state is None or state.pid != pid:
        raise HomeError(f"the server on {home.root} is still starting", fix="try again in a few seconds")
    return state


def running_pid(home: ServerHome) -> int | None:
    """Process id of the server that runs on a folder, or None."""
    return lock_holder(home.lock_file)


def lock_holder(file: Path) -> int | None:
    """The process that holds a lock and has written its id into the file: 0 before it has, None if there is none."""
    try:
        with locked(file, shared=True, wait=False):
            return None
    except BlockingIOError:
        return int(file.read_text(encoding="utf-8") or "0")
    except FileNotFoundError:
        return None


@contextmanager
def only_server(home: ServerHome) -> Iterator[None]:
    """Hold a folder for this process; raises HomeError where another process holds it."""
    with ExitStack() as held:
        try:
            descriptor = held.enter_context(locked(home.lock_file, wait=False))
        except BlockingIOError as error:
            pid = home.lock_file.read_text(errors="replace")
            raise HomeError(
                f"a server runs on {home.root} already, as process {pid}", fix="stop it first, or leave it running"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
