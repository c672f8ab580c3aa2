"""Seconds until a command says something, and until the demonstration is over.

Compiled files lie where they do in an installed package: in a folder of this run, filled by a first call.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity, key_pem, new_node_key, new_tls_key, openssh_private
from tests.benchmarks.figures import from_values, quick, record, repeats

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "moretta")
FIRST_BYTE_SECONDS, DEMO_SECONDS = 0.3, 90.0


def main() -> None:
    """Measure the three rows; the demonstration once, and not under `--quick`."""
    with tempfile.TemporaryDirectory(prefix="moretta-start-") as scratch:
        folder = Path(scratch)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        enroll(folder / "site")
        for name, shown, arguments in (
            ("help", "--help", ["--help"]),
            ("site-status", "site status", ["site", "status", "--home", str(folder / "site")]),
        ):
            first_byte(arguments, environment)
            record(
                from_values(
                    f"start.{name}",
                    f"`moretta {shown}`, to the first byte",
                    "-",
                    [first_byte(arguments, environment) for _ in range(repeats())],
                    target=FIRST_BYTE_SECONDS,
                    better="lower",
                    unit="s",
                )
            )
        if not quick():
            start = time.perf_counter()
            command = [COMMAND, "demo", "--out", str(folder / "demo")]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # with the compiled files of the install
            seconds = [time.perf_counter() - start]
            about = {"target": DEMO_SECONDS, "better": "lower", "unit": "s"}
            record(from_values("start.demo", "`make demo` after the install", "230 s once", seconds, **about))


def first_byte(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of the process to the first byte of its output."""
    start = time.perf_counter()
    with subprocess.Popen(
        [COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), f"no output of {arguments}"
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def enroll(folder: Path) -> None:
    """The folder of an enrolled site whose server does not run: what it says first comes from its own files."""
    key, now = new_tls_key(), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=30))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    home = SiteHome(folder)
    home.prepare()
    Identity(
        site="benchmark",
        address="127.0.0.1:1",
        ca_pem=certificate,
        certificate_pem=certificate,
        tls_key_pem=key_pem(key),
        node_key=openssh_private(new_node_key()),
    ).save(home.identity_file)


if __name__ == "__main__":
    main()
