"""Flower's SuperLink and SuperExec behind a server: on loopback, over TLS, with node authentication, kept alive.

The SuperExec, which starts the ServerApps, is a process of its own next to the SuperLink (`--isolation process`): so a
run outlives the end of a SuperLink.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path

from cryptography import x509

from moretta.deploy.runtime.processes import (
    HOST,
    ManagedProcess,
    OnEvent,
    end_marked,
    flower_command,
    flower_environment,
    free_port,
    new_mark,
    read_record,
    running_programs,
    trim_log,
)
from moretta.server.enrollment.authority import new_authority
from moretta.server.home import CONNECTION
from moretta.server.port.superlink import SuperLinkAddress
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.reproducibility import code_digest, versions

_CERTIFICATE_HOURS = 24.0 * 365 * 2
_FULL_LOG_BYTES = 32 << 20
_PROGRAMS = ("flower-superlink", "flower-superexec")


class FlowerProcesses:
    """SuperLink and SuperExec of one server. `port`: loopback port; 0 takes the one of the last time, or a free one."""

    def __init__(self, folder: Path, *, port: int, on_event: OnEvent) -> None:
        self._folder, self._tls = folder, folder / "tls"
        self.ca = self._tls / "ca.pem"
        """Certificate by which clients on this machine trust the SuperLink."""
        self._certificate, self._key = self._tls / "server.pem", self._tls / "server.key"
        self._secret = folder / "superexec.secret"
        """File with the secret of the SuperExec, so that no other program takes over runs."""
        self.flwr_home = folder / "flwr"
        """FLWR_HOME, with the connection to this SuperLink."""
        code = f"{code_digest()[:16]} flwr {versions()['flwr']}"
        last = read_record(folder / "flower.json")
        self.mark = str(last.get("mark") or new_mark())
        self.port = int(str(last.get("port", 0)))
        # Processes of another version are not taken over: what they run is not what is installed
        self._take_over = last.get("code") == code and bool(running_programs(self.mark, *_PROGRAMS))
        if not self._take_over:
            end_marked(self.mark)
            self.port = free_port(port or self.port)
        self._prepare()
        self.address = SuperLinkAddress(self.port, self.ca)
        write_atomic(folder / "flower.json", json.dumps({"mark": self.mark, "port": self.port, "code": code}))
        superlink = flower_command(
            "flower-superlink",
            *("--host", HOST, "--port", str(self.port)),
            *("--ssl-ca-certfile", str(self.ca), "--ssl-certfile", str(self._certificate)),
            *("--ssl-keyfile", str(self._key), "--database", str(folder / "state.db")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self._secret)),
        )
        superexec = flower_command(
            *("flower-superexec", "flwr-serverapp"),
            *("--runtime-api-address", f"{HOST}:{self.port}", "--root-certificates", str(self.ca)),
            *("--superexec-auth-secret-file", str(self._secret)),
        )
        self.superlink, self.superexec = self._children = tuple(
            ManagedProcess(
                name,
                command,
                environment=flower_environment(self.mark, self.flwr_home, hide_gpus=False),
                folder=folder / "work",
                log=folder / f"{name}.log",
                record=folder / "children.json",
                identity=f"{code} {self.port}",
                on_event=on_event,
            )
            for name, command in (("superlink", superlink), ("superexec", superexec))
        )

    def _prepare(self) -> None:
        """Make whatever is missing, renew what ends soon, and write down where the SuperLink is."""
        for folder in (self._folder, self._tls, self.flwr_home, self._folder / "work"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._secret.exists():
            write_atomic(self._secret, secrets.token_hex(32))
        if not self._certificate_is_good():
            # From an authority that is forgotten at once: it can issue nothing else, ever
            authority, _ = new_authority(time.time)
            key, chain, _ = authority.issue_server((HOST, "localhost"), hours=_CERTIFICATE_HOURS)
            for path, content in ((self._key, key), (self._certificate, chain), (self.ca, authority.pem)):
                write_atomic(path, content)
        os.close(os.open(self._folder / "state.db", os.O_WRONLY | os.O_CREAT, 0o600))
        connection = (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{HOST}:{self.port}"\nroot-certificates = "{self.ca}"\n'
        )
        write_atomic(self.flwr_home / "config.toml", connection)

    def _certificate_is_good(self) -> bool:
        if not (self.ca.exists() and self._key.exists() and self._certificate.exists()):
            return False
        leaf = x509.load_pem_x509_certificates(self._certificate.read_bytes())[0]
        return leaf.not_valid_after_utc.timestamp() - time.time() > _CERTIFICATE_HOURS * 3600 / 2

    def start(self) -> None:
        """Take over what a killed server has left running, and start the rest."""
        taken = {child.pid for child in self._children if self._take_over and child.take_over()}
        for process in running_programs(self.mark, *_PROGRAMS):
            if process.pid not in taken:  # started a moment before the last server was killed, and not recorded
                process.kill()
        self.keep_alive()

    def keep_alive(self) -> bool:
        """Start again what has ended; whether the SuperLink was."""
        started = [child.keep_alive() for child in self._children]
        return started[0]

    def trim_logs(self) -> None:
        """Put a full log aside and begin it anew."""
        for child in self._children:
            trim_log(child.log, _FULL_LOG_BYTES)

    def stop(self) -> None:
        """End both, and every process that they have started."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.end()
        end_marked(self.mark)
