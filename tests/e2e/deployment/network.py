"""A server and its sites on loopback: real processes, sockets and certificates, each in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from moretta.client.offers import Offers
from moretta.deploy.runtime import processes
from moretta.deploy.server.server_admin import administer
from moretta.server.home import ServerHome, running_server
from moretta.shared.enrollment import JoinString

TRUSTED = [
    "mfcc-quantizer",
    "autoencoder",
    "speaker-normalized",
    "emotion-label-rr",
    "expression-track",
    "replacement-autoencoder",
    "unlearnt-gender",
]
"""Anonymizers that the stewards of these sites let release without a guarantee."""
MORETTA = Path(sys.executable).parent / "moretta"
SABOTAGE = Path(__file__).parent / "sabotage"
_PATIENCE_SECONDS = 400.0


def until(true: Callable[[], Any], what: str, *, seconds: float = _PATIENCE_SECONDS, step: float = 0.1) -> Any:
    """Wait until something holds, and return what made it hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(step)
    raise AssertionError(f"{what} did not come within {seconds:.0f} s")


def _steward(home: Path) -> None:
    """Approves whatever is offered to a site, as `moretta site approve` does."""
    offers = Offers(home)
    while home.parent.exists():
        for offer in offers.pending():
            offers.decide(offer, "approved", "steward")
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Command:
    """A `moretta` process and all its output."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    stdout: str = ""
    readers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, arguments: list[str], environment: dict[str, str], log: Path | None = None) -> Command:
        process = subprocess.Popen(
            [str(MORETTA), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        command = cls(process)
        command.readers = [
            threading.Thread(target=command._read, args=(log,), daemon=True),
            threading.Thread(target=command._read_stdout, daemon=True),
        ]
        for reader in command.readers:
            reader.start()
        return command

    def wait(self, seconds: float = 900.0) -> int:
        code = self.process.wait(seconds)
        for reader in self.readers:
            reader.join()
        return code

    def reported(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for(self, text: str, seconds: float = _PATIENCE_SECONDS) -> None:
        def seen() -> bool:
            assert self.process.poll() is None or self.reported(text), "\n".join(self.lines)
            return self.reported(text)

        until(seen, text, seconds=seconds, step=0.05)

    def _read(self, log: Path | None) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(line)

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.stdout += line


@dataclass
class Site:
    """One site: its folder, its clips, its process."""

    name: str
    home: Path
    corpus: Path
    environment: dict[str, str]
    orders_file: Path
    command: Command | None = None

    def start(self) -> None:
        self.command = Command.start(
            ["site", "run", "--home", str(self.home)], self.environment, self.home.with_suffix(".log")
        )

    def state(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.home / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if abs(time.time() - content["written"]) < 5 else {}

    def wait_online(self, seconds: float = _PATIENCE_SECONDS) -> None:
        until(lambda: self.state().get("online"), f"{self.name} online", seconds=seconds)

    def sabotage(self, **orders: Any) -> None:
        self.orders_file.write_text(json.dumps(orders), encoding="utf-8")

    def seed(self, number: int | None) -> None:
        """Test mode: noise from a seed, or None for the operating system's again. Takes effect at the next message."""
        path = self.home / "site.toml"
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "simulated_seed" not in line]
        path.write_text("\n".join([*lines, *([] if number is None else [f"simulated_seed = {number}"]), ""]))

    def ledger(self, kind: str, study: str) -> list[dict[str, Any]]:
        """Ledger entries of one study."""
        path = self.home / "ledger.jsonl"
        if not path.exists():
            return []
        entries = [json.loads(line)["entry"] for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        return [e for e in entries if e["kind"] == kind and e.get("study") == study]

    def processes(self) -> list[psutil.Process]:
        assert self.command is not None
        try:
            top = psutil.Process(self.command.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.Error:
            return []

    def kill(self) -> None:
        """As a power cut: every process of the site at once."""
        kill(self.processes())

    @property
    def stopped(self) -> bool:
        return self.command is None or self.command.process.poll() is not None

    def stop(self) -> None:
        if self.command is not None and not self.stopped:
            self.command.process.terminate()
            try:
                self.command.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=60)


@dataclass
class Network:
    """A server's folder and its sites."""

    root: Path
    sites: list[Site] = field(default_factory=list)
    server: Command | None = None

    @property
    def home(self) -> Path:
        return self.root / "server"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "MORETTA_CACHE": str(self.root / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def moretta(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end."""
        done = subprocess.run(
            [MORETTA, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=400
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def init(self) -> None:
        port = str(free_port())
        self.moretta("server", "init", str(self.home), "--name", "127.0.0.1", "--listen", "127.0.0.1", "--port", port)

    def start_server(self) -> None:
        self.server = Command.start(
            ["server", "up", str(self.home), "--json"], self.environment, self.root / "server.log"
        )
        self.wait_healthy()

    def wait_healthy(self) -> None:
        def healthy() -> bool:
            try:
                return running_server(ServerHome.open(self.home)).healthy
            except Exception:
                return False

        until(healthy, "a healthy server")

    def flower(self, name: str) -> list[psutil.Process]:
        """Processes of the server's Flower whose command line names this."""
        mark = running_server(ServerHome.open(self.home)).mark
        found = []
        for process in processes.marked_processes(mark):
            try:
                if any(name in part for part in process.cmdline()[:5]):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill_superlink(self) -> None:
        kill(self.flower("flower-superlink"))

    def kill_server(self) -> None:
        """The process that coordinators start, and nothing else."""
        assert self.server is not None
        kill([psutil.Process(self.server.process.pid)])

    def kill_machine(self, run: StudyRun) -> None:
        """All that a power cut at the server ends: the server, Flower with the study in it, and the study's command."""
        assert self.server is not None
        kill([psutil.Process(p.pid) for p in (run.command.process, self.server.process)] + self.flower(""))

    def token(self, name: str, *, reenroll: bool = False) -> JoinString:
        with administer(self.home) as admin:
            return admin.issue_token(site=name, hours=1, reenroll=reenroll)

    def join(self, name: str, corpus: Path, *, speakers: tuple[int, ...], held_out: tuple[int, ...]) -> Site:
        """Enroll a site by its command, and let its policy allow what tests ask for. Somebody must be held out."""
        assert held_out
        home = self.root / name
        string = self.root / f"{name}.join"
        string.write_text(self.token(name).encode(), encoding="utf-8")
        numbers = [",".join(map(str, each)) for each in (speakers, held_out)]
        self.moretta(
            "site", "join", f"@{string}", "--home", str(home), "--corpus", str(corpus),
            "--speakers", numbers[0], "--held-out", numbers[1],
        )  # fmt: skip
        policy = home / "policy.toml"
        text = policy.read_text(encoding="utf-8").replace("allow_seeded_noise = false", "allow_seeded_noise = true")
        text = text.replace("without_guarantee = []", f"without_guarantee = {json.dumps(TRUSTED)}")
        text = re.sub(r"((server|model)_(clip|speaker)) = .*", r"\1 = inf", text).replace(" = 5\n", " = 1000\n")
        policy.write_text(text, encoding="utf-8")
        threading.Thread(target=_steward, args=(home,), daemon=True, name=f"steward of {name}").start()
        orders = self.root / f"{name}.orders"
        path = os.pathsep.join([str(SABOTAGE), os.environ.get("PYTHONPATH", "")])
        environment = {**self.environment, "PYTHONPATH": path, "MORETTA_SABOTAGE": str(orders)}
        site = Site(name, home, corpus, environment, orders)
        self.sites.append(site)
        return site

    def study(self, name: str, text: str, *more: str, again: str = "") -> StudyRun:
        """Start a study; `text` is the study file without its name, `again` marks the folder of another run of it."""
        path = self.root / f"{name}.toml"
        path.write_text(f'name = "{name}"\n{text}', encoding="utf-8")
        out = self.root / "studies" / f"{name}{again}"
        command = Command.start(
            ["study", "run", str(path), "--server", str(self.home), "--out", str(out), *more], self.environment
        )
        return StudyRun(command, out)

    def stop(self) -> None:
        for site in self.sites:
            site.stop()
        if self.server is not None and self.server.process.poll() is None:
            self.server.process.terminate()
            try:
                self.server.process.wait(20)
            except subprocess.TimeoutExpired:
                self.server.process.kill()


@dataclass
class StudyRun:
    """A study on its way, or at its end."""

    command: Command
    out: Path

    def wait(self, code: int = 0) -> StudyRun:
        found = self.command.wait()
        assert found == code, f"exit code {found}\n" + "\n".join(self.command.lines)
        return self

    def report(self) -> Any:
        return json.loads((self.out / "report.json").read_text(encoding="utf-8"))

    def outcome(self) -> Any:
        return json.loads((self.out / "outcome.json").read_text(encoding="utf-8"))

    def digest(self) -> str:
        """Of the study, as it stands in the ledgers."""
        from moretta.shared.study.run_plan import load_plan

        until((self.out / "plan.json").exists, "a plan")
        return load_plan(self.out).study.digest()

    def weights(self) -> dict[str, bytes]:
        from safetensors.numpy import load_file

        arrays = load_file(self.out / "server" / "checkpoints" / "voice.safetensors")
        return {name: array.tobytes() for name, array in arrays.items()}

    def epsilons(self) -> list[tuple[str, int | None, float | None]]:
        rows = [r for r in self.report()["privacy"] if r["mechanism"] == "dp-sgd"]
        return [(r["site"], r["round"], r["epsilon"]) for r in rows]


def chosen(*sites: str) -> list[str]:
    """Options of `moretta study run`."""
    return [word for site in sites for word in ("--site", site)]
