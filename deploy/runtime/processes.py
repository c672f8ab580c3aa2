"""Child processes: their environment, a class that starts, watches, restarts and ends them, a mark that finds all.

They speak over loopback without a proxy. Ray and Flower start processes in sessions of their own: neither a process
group nor a parent's pid finds them all. So every process of a run carries a mark in its environment, daemons included.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.workers import THREAD_VARIABLES

HOST = "127.0.0.1"
MARK = "MORETTA_RUN_MARK"
_NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
"""Variables for libraries that would otherwise read the settings of the system."""
_PROXY_LOCK = threading.Lock()
_GIVE_UP_SECONDS = 10.0
_FIRST_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.5, 30.0
_STEADY_SECONDS = 60.0
"""Seconds of life after which an ended process starts again at once."""
_log = logging.getLogger(__name__)
OnEvent = Callable[[str, dict[str, Any]], None]


def _names_proxy(variable: str) -> bool:
    """Whether some library takes a proxy, or an exception from it, from this variable."""
    return variable.lower().endswith("_proxy")


def named_proxies(environment: Mapping[str, str]) -> list[str]:
    """Variables that name a proxy, sorted; their values may hold passwords and are left out."""
    return sorted(n for n, v in environment.items() if v and _names_proxy(n) and n.lower() != "no_proxy")


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that speaks over loopback alone: no proxy, of whatever kind and spelling.

    An exception for loopback would not do: httpx requires support for a SOCKS proxy even where it is not used.
    """
    return {name: value for name, value in environment.items() if not _names_proxy(name)} | _NO_PROXY


@contextmanager
def proxies_ignored() -> Iterator[None]:
    """No proxies for clients that are made inside, by code that reads this process' own environment."""
    with _PROXY_LOCK:
        before = {name: value for name, value in os.environ.items() if _names_proxy(name)}
        try:
            for name in before:
                del os.environ[name]
            os.environ.update(_NO_PROXY)
            yield
        finally:
            for name in _NO_PROXY:
                os.environ.pop(name, None)
            os.environ.update(before)


def child_environment(mark: str, *, hide_gpus: bool = True) -> dict[str, str]:
    """The environment of a child process: no proxy, one compute thread, the mark of its run.

    With `hide_gpus` no GPU is used unless CUDA_VISIBLE_DEVICES names one.
    """
    inherited = {n: value for n, value in without_proxies(os.environ).items() if n != "GRPC_SSL_CIPHER_SUITES"}
    made = {**inherited, **dict.fromkeys(THREAD_VARIABLES, "1"), MARK: mark}
    return {"CUDA_VISIBLE_DEVICES": "", **made} if hide_gpus else made


def flower_environment(mark: str, home: Path, *, hide_gpus: bool = True) -> dict[str, str]:
    """The environment of Flower's programs, with `home` as FLWR_HOME and nothing that calls home or installs."""
    environment = child_environment(mark, hide_gpus=hide_gpus)
    return {
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "FLWR_HOME": str(home.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


def flower_command(program: str, *arguments: str) -> list[str]:
    """The command line of one of Flower's programs; nothing is imported from the folder that it starts in."""
    return [sys.executable, "-P", "-m", "moretta.deploy.runtime.flower_programs", program, *arguments]


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free on loopback, else another free port; 0 takes any."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    return 0


class ManagedProcess:
    """One child process, in a session of its own: Ctrl-C reaches the parent alone, which then ends all in order.

    A parent that was killed leaves its children at work. With `record`, the next parent finds them and takes them over.

    Args:
        name: in logs, records and events: `NAME-started`, `NAME-taken-over` and `NAME-ended`.
        log: file that output is appended to; readable by this account alone.
        folder: to start in; an empty one, since Python imports from there first.
        record: file that says which process runs under which name.
        identity: what the process was started as. One of another identity is not taken over.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        folder: Path | None = None,
        record: Path | None = None,
        identity: str = "",
        on_event: OnEvent = lambda _event, _fields: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment, self._folder = command, environment, folder
        self._record, self._identity, self._on_event, self._clock = record, identity, on_event, clock
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._started = 0.0
        self._backoff, self._not_before = _FIRST_BACKOFF_SECONDS, 0.0

    @property
    def pid(self) -> int | None:
        """Process id, while it lives."""
        return self._process.pid if self._process is not None and self.alive() else None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process, if this one started it and it has ended; else None."""
        return None if self._popen is None else self._popen.poll()

    def alive(self) -> bool:
        """Whether it runs."""
        if self._popen is not None:
            return self._popen.poll() is None
        return self._process is not None and _alive(self._process)

    def start(self) -> Self:
        """Start it now."""
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
            self._popen = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._process, self._started = psutil.Process(self._popen.pid), self._clock()
        _log.info("%s is process %d, its log is %s", self.name, self._popen.pid, self.log)
        if self._record is not None:
            fields = {"pid": self._popen.pid, "created": self._process.create_time(), "identity": self._identity}
            write_atomic(self._record, json.dumps({**read_record(self._record), self.name: fields}, indent=1) + "\n")
        self._on_event(f"{self.name}-started", {"pid": self._popen.pid})
        return self

    def take_over(self) -> bool:
        """Take over what an earlier parent left, if the record has a live process of this identity."""
        try:
            fields = read_record(self._record)[self.name] if self._record is not None else {}
            process = psutil.Process(fields["pid"])
            same = process.create_time() == fields["created"] and fields["identity"] == self._identity
        except (psutil.Error, LookupError, TypeError, ValueError):
            return False
        if not same or not _alive(process):
            return False
        self._process, self._started = process, self._clock()
        self._on_event(f"{self.name}-taken-over", {"pid": process.pid})
        return True

    def keep_alive(self) -> bool:
        """Start it if it does not run and the pause after its last end is over; true if it was started."""
        if self.alive():
            return False
        now = self._clock()
        if self._process is not None:
            _log.info("%s ended with code %s", self.name, self.exit_code)
            self._on_event(f"{self.name}-ended", {"code": self.exit_code})
            self._process = self._popen = None
            if now - self._started > _STEADY_SECONDS:
                self._backoff = _FIRST_BACKOFF_SECONDS
            self._not_before = now + self._backoff
            self._backoff = min(_MOST_BACKOFF_SECONDS, self._backoff * 2)
        if now < self._not_before:
            return False
        self.start()
        return True

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self._process is not None:
            with suppress(psutil.Error):
                self._process.terminate()

    def kill(self) -> None:
        """End it at once; `keep_alive` starts it again."""
        if self._process is not None:
            with suppress(psutil.Error):
                self._process.kill()
                psutil.wait_procs([self._process], timeout=5.0)

    def end(self, patience_seconds: float = 2.0) -> None:
        """Send SIGTERM, wait, and kill it if it still runs."""
        self.terminate()
        if self._process is not None:
            psutil.wait_procs([self._process], timeout=patience_seconds)
        self.kill()
        if self._popen is not None:
            self._popen.wait()
        self._process = None


def read_record(path: Path) -> dict[str, Any]:
    """The fields of a JSON file that an earlier process wrote; none where it is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def trim_log(log: Path, most_bytes: int) -> None:
    """Move a longer log to `NAME.log.1` and empty it; the process that appends to it need not know."""
    if log.exists() and log.stat().st_size > most_bytes:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def last_error(text: str) -> str:
    """The last line of a log of Flower's that reports an error; empty if none does."""
    errors = [line.strip() for line in text.splitlines() if "Error" in line or "Exit Code" in line]
    return errors[-1][:300] if errors else ""


def new_mark() -> str:
    """A mark that no other run has."""
    return secrets.token_hex(16)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Processes that carry the mark, and all that descend from them; this one excepted.

    Descendants count because some of Ray's rename themselves, which overwrites the environment they show.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def running_programs(mark: str, *names: str) -> list[psutil.Process]:
    """Marked processes whose command line begins with one of these programs, such as `flower-superlink`."""
    found = []
    for process in marked_processes(mark):
        with suppress(psutil.Error):
            if any(name in part for part in process.cmdline()[:5] for name in names):
                found.append(process)
    return found


def end_marked(mark: str, *, patience_seconds: float = 4.0) -> int:
    """Let all processes of a run end, then kill them; returns how many there were.

    New ones may start while others end, so it looks again until none is left. An interrupt in the middle begins it
    again, and goes on afterwards.
    """
    try:
        return _end_marked(mark, patience_seconds)
    except BaseException:
        _end_marked(mark, patience_seconds)
        raise


def _end_marked(mark: str, patience_seconds: float) -> int:
    known: dict[int, psutil.Process] = {}
    signalled: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline + _GIVE_UP_SECONDS:
        known.update({p.pid: p for p in marked_processes(mark)})
        alive = [p for p in known.values() if _alive(p)]
        if not alive:
            break
        for process in alive:
            with suppress(psutil.Error):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in signalled:
                    process.terminate()
        signalled.update(p.pid for p in alive)
        psutil.wait_procs(alive, timeout=0.3)
    return len(known)


def memory_bytes(mark: str | None, *pids: int) -> int:
    """Memory of all the run's processes and this one; shared pages count once where the system says (PSS)."""
    total = 0
    processes = [psutil.Process(), *(marked_processes(mark) if mark else [])]
    for pid in pids:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))
    for process in processes:
        with suppress(psutil.Error, OSError):
            full = process.memory_full_info()
            total += int(getattr(full, "pss", full.uss))
    return total


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
