"""One run on Flower's simulation runtime: its own SuperLink, FLWR_HOME, port and temporary folder, ended with it.

A shared local SuperLink would import the sites' code from wherever it was first started, and outlive the run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from moretta.deploy.runtime import process_marks
from moretta.deploy.runtime.control import Control
from moretta.deploy.runtime.proxies import without_proxies
from moretta.shared.core.errors import RunError
from moretta.shared.core.threads import THREAD_VARIABLES, cpu_count

_START_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
_CONNECTION = "run"


@dataclass(frozen=True, slots=True)
class SimulationRuntime:
    """A SuperLink in simulation mode that serves one run."""

    mark: str
    scratch: Path
    port: int
    environment: dict[str, str]
    superlink: subprocess.Popen[bytes]
    log: Path

    def submit(self, *, sites: int, run_folder: Path) -> str:
        """Submit the bundle for a run over so many virtual sites; returns Flower's run id.

        Raises:
            ControlError: Flower refused it.
        """
        control = Control(f"127.0.0.1:{self.port}")
        run_id = control.submit(
            {"run-dir": str(run_folder), "desk": "later"},
            federation={
                "num_supernodes": sites,
                "client_resources_num_cpus": 1,
                "init_args_num_cpus": min(sites, cpu_count()),
            },
        )
        return str(run_id)

    def gone(self) -> str | None:
        """Why nothing can come any more: the SuperLink or the simulation process has ended. None while both live."""
        if self.superlink.poll() is not None:
            return f"Flower's SuperLink ended with code {self.superlink.returncode}"
        return None if self._simulating() else "Flower's simulation process ended"

    def cause(self, run_id: str) -> str:
        """What the run's own log says last of an error; the whole log is put beside Flower's."""
        done = self._flwr("log", run_id, _CONNECTION, "--show")
        (self.log.parent / "run.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        errors = [line.strip() for line in done.stdout.splitlines() if "Error" in line or "Exit Code" in line]
        return errors[-1][:300] if errors else "its log names no error"

    def _flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_script("flwr"), *arguments],
            env=self.environment,
            cwd=self.scratch,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )

    def started(self) -> bool:
        """Whether the simulation process is there."""
        return self._simulating()

    def _simulating(self) -> bool:
        for process in process_marks.processes(self.mark):
            try:
                if any("flwr-simulation" in part for part in process.cmdline()[:3]):
                    return True
            except psutil.Error:
                continue
        return False


@contextmanager
def simulation_runtime(log_folder: Path) -> Iterator[SimulationRuntime]:
    """Start a SuperLink for one run; on leaving, whatever the reason, every process of it is ended.

    Raises:
        RunError: it does not start.
    """
    mark = process_marks.new_mark()
    # Ray's sockets live here, and a socket's path may have 107 characters at most
    scratch = Path(tempfile.mkdtemp(prefix="moretta-", dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / "flower.log"
    try:
        port = _free_port()
        environment = _environment(mark, scratch)
        _write_connection(scratch / "flwr", port)
        with log.open("ab") as output:
            superlink = subprocess.Popen(
                [
                    _script("flower-superlink"),
                    "--insecure",
                    "--simulation",
                    "--disable-runtime-dependency-installation",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                ],
                env=environment,
                cwd=scratch,  # an empty folder: simulated sites import from here first
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches `moretta` alone, which then ends all in order
            )
        _wait_healthy(port, superlink, log)
        yield SimulationRuntime(mark, scratch, port, environment, superlink, log)
    finally:
        try:
            process_marks.end_all_for_sure(mark)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _environment(mark: str, scratch: Path) -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    return {
        **without_proxies(os.environ),
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        process_marks.MARK: mark,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(scratch / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(scratch),
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


def _write_connection(home: Path, port: int) -> None:
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )


def _wait_healthy(port: int, superlink: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and superlink.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RunError("Flower's SuperLink did not start", expected="a healthy SuperLink within a minute", fix=f"see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)
