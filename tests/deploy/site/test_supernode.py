"""A child that is started, watched, started again and ended, as the SuperNode is. Here it is a small program."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from moretta.client.site_home import SiteHome
from moretta.deploy.runtime import processes
from moretta.deploy.site.supernode import BASE_SECONDS, CAP_SECONDS, Runtime, SuperNodeCommand, SuperNodeKeeper
from moretta.shared.core.errors import HomeError

FOR_EVER = "import time; time.sleep(60)"
_RUNTIME = Runtime(1, Path("/r.pem"), Path("/r.key"), Path("/r.secret"))


@dataclass
class Program:
    """In the place of a SuperNode's command."""

    home: SiteHome
    code: str
    executor: str = FOR_EVER

    def arguments(self, runtime: Runtime | None = None) -> list[str]:
        return [sys.executable, "-S", "-c", self.code]

    def executor_arguments(self, runtime: Runtime, supernode: int) -> list[str]:
        return [sys.executable, "-S", "-c", self.executor]

    def environment(self, mark: str) -> dict[str, str]:
        return {**os.environ, processes.MARK: mark}


class Slept(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0.01)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    made.prepare()
    return made


def scene(body: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(body(), 60))


async def until(what: Callable[[], Any]) -> Any:
    while not (found := what()):
        await asyncio.sleep(0.01)
    return found


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_one_that_ends_is_started_again_and_never_given_up(home: SiteHome) -> None:
    """The server refuses a killed SuperNode for a minute: waits grow to half a minute, and there they stay."""

    async def body() -> Slept:
        slept = Slept()
        program: Any = Program(home, "raise SystemExit(1)")
        keeper = SuperNodeKeeper(program, sleep=slept, jitter=lambda: 1.0)
        task = asyncio.create_task(keeper.keep())
        await until(lambda: keeper.starts >= 6)
        await ended(task)
        return slept

    slept = scene(body)
    assert slept[:5] == [min(CAP_SECONDS, BASE_SECONDS * 2**n) for n in range(5)]
    assert sum(slept[:4]) > 60  # the fifth start comes when the killed one is not counted as online any more


def test_one_that_was_well_for_long_starts_again_as_at_first(home: SiteHome) -> None:
    async def body() -> Slept:
        slept = Slept()
        times = iter(range(0, 10**6, 130))
        program: Any = Program(home, "")
        keeper = SuperNodeKeeper(program, sleep=slept, jitter=lambda: 1.0, clock=lambda: float(next(times)))
        task = asyncio.create_task(keeper.keep())
        await until(lambda: len(slept) >= 4)
        await ended(task)
        return slept

    assert set(scene(body)[:4]) == {BASE_SECONDS}


def test_waits_have_jitter(home: SiteHome) -> None:
    async def body() -> Slept:
        slept = Slept()
        program: Any = Program(home, "")
        keeper = SuperNodeKeeper(program, sleep=slept, jitter=lambda: 0.0)
        task = asyncio.create_task(keeper.keep())
        await until(lambda: slept)
        await ended(task)
        return slept

    assert scene(body)[0] == BASE_SECONDS / 2


def test_why_it_ended_is_reported(home: SiteHome, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        text = "Failed to initialize the connection. [code: 2004] Failed to activate SuperNode."
        program: Any = Program(home, f"print({text!r}); raise SystemExit(1)")
        keeper = SuperNodeKeeper(program, sleep=Slept())
        task = asyncio.create_task(keeper.keep())
        await until(lambda: keeper.starts >= 2)
        await ended(task)

    scene(body)
    assert "ended with code 1 (the server still counts the last one as online" in caplog.text
    assert "[code: 2004]" in (home.logs / "supernode.log").read_text()


def test_at_the_end_it_is_terminated_and_all_that_it_started_goes_too(home: SiteHome, tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = (
        "import signal, subprocess, sys, pathlib\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {FOR_EVER!r}], start_new_session=True)\n"
        "def bye(*a):\n"
        f"    pathlib.Path({str(note)!r}).write_text('signed off')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )

    async def body() -> int:
        program: Any = Program(home, code)
        keeper = SuperNodeKeeper(program)
        task = asyncio.create_task(keeper.keep())
        log = home.logs / "supernode.log"
        child = int(await until(lambda: log.exists() and log.read_text().strip()))
        assert psutil.pid_exists(child)
        await ended(task)
        return child

    child = scene(body)
    assert note.read_text() == "signed off"
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_supervisor_left_is_ended_before_a_new_one_starts(home: SiteHome) -> None:
    async def body() -> None:
        program: Any = Program(home, FOR_EVER)
        first = SuperNodeKeeper(program)
        mark = processes.new_mark()
        (home.keys / ".run-mark").write_text(mark)
        left = await asyncio.create_subprocess_exec(*program.arguments(), env=program.environment(mark))
        task = asyncio.create_task(first.keep())
        await left.wait()
        await until(lambda: first.pid)
        assert first.pid != left.pid
        await ended(task)

    scene(body)


def test_an_executor_that_ends_takes_the_supernode_along_and_both_start_again(
    home: SiteHome, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> list[str]:
        program: Any = Program(home, FOR_EVER, executor="raise SystemExit(3)")
        keeper = SuperNodeKeeper(program, sleep=Slept())
        secrets: list[str] = []
        keeper._on_start = lambda: secrets.extend(p.read_text() for p in home.keys.glob("runtime.secret"))
        task = asyncio.create_task(keeper.keep())
        await until(lambda: keeper.starts >= 3)
        await ended(task)
        return secrets

    first, second = scene(body)[:2]
    assert first != second
    assert "ended with code 3 (its executor ended)" in caplog.text


def test_a_long_log_is_put_aside(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    from moretta.deploy.site import supernode

    monkeypatch.setattr(supernode, "_LOG_BYTES", 5)

    async def body() -> None:
        program: Any = Program(home, "print('a line')")
        keeper = SuperNodeKeeper(program, sleep=Slept())
        task = asyncio.create_task(keeper.keep())
        await until(lambda: keeper.starts >= 3)
        await ended(task)

    scene(body)
    assert (home.logs / "supernode.log.1").read_text() == "a line\n"


def test_nothing_secret_stands_on_the_command_line_and_all_stays_on_loopback(home: SiteHome) -> None:
    command = SuperNodeCommand(home, 4711, Path("/c.pem"), home.keys / "node", home.keys / "trusted.yaml")
    runtime = Runtime.new(home.keys)
    arguments = command.arguments(runtime)
    assert arguments[4] == "flower-supernode"
    said = dict(zip(arguments[5::2], arguments[6::2], strict=True))
    assert said["--superlink"] == "127.0.0.1:4711"
    assert said["--host"] == "127.0.0.1"
    assert said["--trusted-entities"] == str(home.keys / "trusted.yaml")
    assert (said["--isolation"], said["--superexec-auth-secret-file"]) == ("process", str(home.keys / "runtime.secret"))
    executor = command.executor_arguments(runtime, 4712)
    assert executor[executor.index("--runtime-api-address") + 1] == f"127.0.0.1:{said['--port']}"
    assert "--insecure" not in [*arguments, *executor]
    secrets = [path.read_text() for path in (runtime.secret, runtime.key)]
    assert not [text for text in secrets if text in " ".join([*arguments, *executor])]
    assert {path.stat().st_mode & 0o077 for path in home.keys.iterdir()} == {0}
    environment = command.environment("mark")
    assert environment["FLWR_HOME"].startswith(str(home.root))
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


@pytest.mark.parametrize("name", ["klinik mit ümlaut", 'a "quoted" one', "o'hara", "back\\slash", "a=b", "x.toml"])
def test_flower_reads_the_site_s_folder_from_the_command_line_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    from flwr.common.config import parse_config_args

    home = SiteHome(tmp_path / name)
    arguments = SuperNodeCommand(home, 1, Path("/c"), Path("/n"), Path("/t")).arguments(_RUNTIME)
    said = arguments[arguments.index("--node-config") + 1]
    assert parse_config_args([said]) == {"site-home": str(home.root)}


@pytest.mark.parametrize("name", ["both ' and \"", "two\nlines"])
def test_a_name_that_flower_cannot_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomeError, match="a folder whose name Flower cannot read"):
        SuperNodeCommand(SiteHome(tmp_path / name), 1, Path("/c"), Path("/n"), Path("/t")).arguments(_RUNTIME)
