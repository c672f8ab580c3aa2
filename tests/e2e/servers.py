"""A real `moretta server up` for tests, and sites that call it as Flower's SuperNode and a site's connector would."""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from ports import Calls, SiteKeys, key_pem, to_pem

from moretta.deploy.server.server_admin import administer
from moretta.server.enrollment.database import SiteRecord
from moretta.shared.enrollment import JoinString, derive_bootstrap

MORETTA = [sys.executable, "-m", "moretta.deploy.cli.main"]
OPTIONS = [
    ("grpc.max_receive_message_length", 300 << 20),
    ("grpc.max_send_message_length", 300 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


def moretta(*arguments: object, code: int = 0) -> str:
    """Run a command to its end; returns what it printed."""
    done = subprocess.run([*MORETTA, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


@dataclass
class ServerProcess:
    """`moretta server up --json` on a folder."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _arrived: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    _channels: list[grpc.Channel] = field(default_factory=list)

    @classmethod
    def init(cls, folder: Path, *, port: int, limits: str = "") -> ServerProcess:
        moretta("server", "init", folder, "--name", "127.0.0.1", "--listen", "127.0.0.1", "--port", port)
        if limits:
            settings = folder / "server.toml"
            settings.write_text(settings.read_text().partition("[limits]")[0] + f"[limits]\n{limits}\n")
        return cls(folder, port)

    @property
    def stderr(self) -> Path:
        """File with the server's output besides its events."""
        return self.folder.with_suffix(".err")

    def start(self, *, ready: bool = True) -> ServerProcess:
        self._arrived = queue.Queue()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [*MORETTA, "server", "up", str(self.folder), "--json"],
            stdout=subprocess.PIPE,
            stderr=self.stderr.open("ab"),
            text=True,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process, self._arrived), daemon=True).start()
        if ready:
            self.wait_for("ready")
        return self

    def _read(self, process: subprocess.Popen[str], arrived: queue.Queue[dict[str, Any]]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            self.events.append(event)
            arrived.put(event)

    def wait_for(self, event: str, seconds: float = 200.0, **fields: Any) -> dict[str, Any]:
        """The next event of that name whose fields are these."""
        end = time.monotonic() + seconds
        while True:
            try:
                reported = self._arrived.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event} within {seconds} s: {self.events}") from None
            if reported["event"] == event and all(reported.get(key) == value for key, value in fields.items()):
                return reported

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(200)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def state(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "server.json").read_text())
        return content

    def status(self, *, code: int = 0) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(moretta("server", "status", "--server", self.folder, "--json", code=code))
        return content

    def sites(self) -> dict[str, SiteRecord]:
        with administer(self.folder) as admin:
            return {site.name: site for site in admin.registry.sites()}

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def token(self, site: str, *, reenroll: bool = False) -> JoinString:
        """As `moretta server token` does, without the time that a command takes to start."""
        with administer(self.folder) as admin:
            return admin.issue_token(site=site, hours=None, reenroll=reenroll)

    def channel(self, key: bytes, certificate: bytes) -> grpc.Channel:
        roots = (self.folder / "ca" / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots, key, certificate)
        self._channels.append(grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options=OPTIONS))
        return self._channels[-1]

    def with_token(self, join: JoinString) -> Calls:
        made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
        return Calls(self.channel(made.key_pem, made.certificate_pem))

    def as_site(self, site: SiteKeys) -> Calls:
        return Calls(self.channel(key_pem(site.key), to_pem(site.certificate)))

    def enrolled(self, name: str, *, reenroll: bool = False) -> SiteKeys:
        site = SiteKeys.new(name)
        site.certificate = self.with_token(self.token(name, reenroll=reenroll)).enroll(site).certificate_der
        return site

    def node_id(self, name: str, seconds: float = 200.0) -> int:
        """Flower's id of a site's node, once it has one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if node_id := self.sites()[name].node_id:
                return node_id
            time.sleep(0.1)
        raise AssertionError(f"{name} was not registered within {seconds} s")


def miss(folder: Path, name: str) -> None:
    """Let Flower miss a killed site now: it would wait for heartbeats of a minute otherwise."""
    with administer(folder) as admin:
        (node,) = [known.node_id for known in admin.registry.sites() if known.name == name]
    with closing(sqlite3.connect(folder / "superlink" / "state.db", timeout=60)) as database, database:
        signed = node - 2**64 if node is not None and node >= 2**63 else node
        changed = database.execute("UPDATE node SET online_until = 0 WHERE node_id = ?", (signed,))
        assert changed.rowcount == 1


def eventually(what: Any, seconds: float = 200.0) -> Any:
    """The first true answer of `what`, asked again and again."""
    end = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
