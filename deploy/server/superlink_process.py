"""Flower's SuperLink and SuperExec as this server runs them: on loopback, over TLS, with node authentication.

The SuperExec, which starts the ServerApps, is a process of its own beside the SuperLink (`--isolation process`): so a
run outlives the end of a SuperLink.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from moretta.deploy.runtime import flower_program, process_marks
from moretta.deploy.runtime.proxies import without_proxies
from moretta.server.enrollment.authority import new_authority
from moretta.server.home import CONNECTION
from moretta.server.relay.superlink_client import SuperLinkAddress
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.threads import THREAD_VARIABLES

_CERTIFICATE_HOURS = 24.0 * 365 * 2
_GRPC_CIPHERS = "GRPC_SSL_CIPHER_SUITES"


@dataclass(frozen=True, slots=True)
class SuperLinkFiles:
    """What lies in the folder of the SuperLink."""

    folder: Path

    @property
    def ca(self) -> Path:
        """What clients on this machine know the SuperLink by."""
        return self.folder / "tls" / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The SuperLink's own."""
        return self.folder / "tls" / "server.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "tls" / "server.key"

    @property
    def secret(self) -> Path:
        """What the SuperExec proves itself with: who else reaches the port may not take runs over."""
        return self.folder / "superexec.secret"

    @property
    def database(self) -> Path:
        """Flower's state."""
        return self.folder / "state.db"

    @property
    def flwr_home(self) -> Path:
        """FLWR_HOME, with the connection to this SuperLink."""
        return self.folder / "flwr"

    @property
    def children(self) -> Path:
        """Which processes were started last."""
        return self.folder / "children.json"

    def log(self, name: str) -> Path:
        """What a process says."""
        return self.folder / f"{name}.log"

    def prepare(self, port: int) -> SuperLinkAddress:
        """Make whatever is missing, renew what ends soon, and write down where the SuperLink is."""
        for folder in (self.folder, self.folder / "tls", self.flwr_home, self.folder / "work"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.secret.exists():
            write_atomic(self.secret, secrets.token_hex(32), mode=0o600)
        if not self._certificate_is_good():
            self._make_certificate()
        if not self.database.exists():
            os.close(os.open(self.database, os.O_WRONLY | os.O_CREAT, 0o600))
        connection = (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\nroot-certificates = "{self.ca}"\n'
        )
        write_atomic(self.flwr_home / "config.toml", connection, mode=0o600)
        return SuperLinkAddress(port, self.ca)

    def _certificate_is_good(self) -> bool:
        if not (self.ca.exists() and self.key.exists() and self.certificate.exists()):
            return False
        leaf = x509.load_pem_x509_certificates(self.certificate.read_bytes())[0]
        return leaf.not_valid_after_utc.timestamp() - time.time() > _CERTIFICATE_HOURS * 3600 / 2

    def _make_certificate(self) -> None:
        """From an authority that is forgotten at once: it can issue nothing else, ever."""
        authority, _ = new_authority(time.time)
        key, chain, _ = authority.issue_server(("127.0.0.1", "localhost"), hours=_CERTIFICATE_HOURS)
        write_atomic(self.key, key, mode=0o600)
        write_atomic(self.certificate, chain, mode=0o600)
        write_atomic(self.ca, authority.pem, mode=0o600)


def superlink_command(files: SuperLinkFiles, port: int) -> list[str]:
    """How the SuperLink is started."""
    return [
        *flower_program.command("flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate)),
        *("--ssl-keyfile", str(files.key), "--database", str(files.database)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(files.secret)),
    ]


def superexec_command(files: SuperLinkFiles, port: int) -> list[str]:
    """How the SuperExec is started."""
    return [
        *flower_program.command("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", str(files.ca)),
        *("--superexec-auth-secret-file", str(files.secret)),
    ]


def flower_environment(files: SuperLinkFiles, mark: str) -> dict[str, str]:
    """Environment of both, and of the ServerApps that they start."""
    inherited = {key: value for key, value in without_proxies(os.environ).items() if key != _GRPC_CIPHERS}
    binaries = str(Path(sys.executable).parent)
    return {
        **inherited,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        process_marks.MARK: mark,
        "PATH": f"{binaries}{os.pathsep}{inherited.get('PATH', '')}",
        "FLWR_HOME": str(files.flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


def free_port(wanted: int) -> int:
    """`wanted` if it can be had on loopback, else a free one; 0 takes any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0
