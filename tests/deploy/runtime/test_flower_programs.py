"""Only the site's own executor may take its tasks, and no other account of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus, factory
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

from moretta.client.site_home import SiteHome
from moretta.client.transport.bundle_gate import BundleGate
from moretta.client.transport.connector import self_signed
from moretta.client.transport.identity import openssh_private
from moretta.deploy.runtime import flower_programs
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.flower_programs import AppExecutor
from moretta.deploy.site.supernode import Runtime, SuperNodeCommand
from moretta.shared.core.workers import THREAD_VARIABLES

_WITHOUT_CUDA = """
import torch
def refuse(*_): raise SystemExit("CUDA was started")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = torch._C._cuda_getDeviceCount = refuse
from importlib import import_module
from moretta.deploy.runtime.flower_programs import _PRELOADED
for modules in _PRELOADED.values():
    for name in modules:
        import_module(name)
from moretta.shared.study.options import ANONYMIZERS
ANONYMIZERS.load()
"""


def test_the_process_that_apps_are_forked_from_starts_no_cuda() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_CUDA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@dataclass
class RealSuperNode:
    runtime: Runtime
    command: SuperNodeCommand
    process: subprocess.Popen[bytes]

    def client(self, secret: bytes | None) -> RuntimeHttpClient:
        interceptors: list[ProtobufClientInterceptor] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
        if secret is not None:
            interceptors.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE))
        return RuntimeHttpClient.from_server_address(
            server_address=f"127.0.0.1:{self.runtime.port}",
            insecure=False,
            root_certificates=str(self.runtime.certificate),
            interceptors=interceptors,
            retry_invoker=None,
        )


@pytest.fixture(scope="module")
def supernode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSuperNode]:
    """Flower's own, as a site starts it; the server that it looks for is not there."""
    home = SiteHome(tmp_path_factory.mktemp("site"))
    home.prepare()
    root = home.keys / "connector.pem"
    root.write_text(self_signed()[0])
    (home.keys / "node").write_text(openssh_private(ec.generate_private_key(ec.SECP384R1())))
    (home.keys / "trusted.yaml").write_text(BundleGate(installed_bundle()).trusted_entities)
    command = SuperNodeCommand(home, 1, root, home.keys / "node", home.keys / "trusted.yaml")
    runtime = Runtime.new(home.keys)
    log = home.logs / "supernode.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.arguments(runtime), env=command.environment("m"), stdout=output, stderr=output, cwd=home.flower
        )
    while "Uvicorn running" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    yield RealSuperNode(runtime, command, process)
    process.kill()
    process.wait()


@pytest.mark.parametrize("secret", [None, b"guessed"])
def test_without_the_secret_no_task_can_be_taken(supernode: RealSuperNode, secret: bytes | None) -> None:
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    with pytest.raises(httpx.HTTPStatusError, match="401 Unauthorized"):
        supernode.client(secret).AcquireTask(request)
    own = supernode.client(supernode.runtime.secret.read_bytes())
    assert not own.AcquireTask(request).HasField("task")  # there is none: the reply to the right secret


def test_without_a_task_s_token_nothing_of_it_can_be_fetched(supernode: RealSuperNode) -> None:
    for secret in (None, supernode.runtime.secret.read_bytes()):
        with pytest.raises(httpx.HTTPStatusError, match="401 Unauthorized"):
            supernode.client(secret).PullTaskInput(PullTaskInputRequest())


def test_the_executor_ends_with_its_supernode(supernode: RealSuperNode) -> None:
    parent = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    executor = subprocess.Popen(
        supernode.command.executor_arguments(supernode.runtime, parent.pid),
        env=supernode.command.environment("m"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert executor.stderr is not None
    assert "Starting Flower SuperExec" in executor.stderr.readline()
    parent.communicate(b"\n")
    executor.stderr.read()
    assert executor.wait(60) == 0


def _spec(task_type: TaskType = TaskType.CLIENT_APP, *, insecure: bool = False) -> ExecutionSpec:
    return ExecutionSpec(
        task_type=task_type,
        runtime_api_address="127.0.0.1:1",
        token="ab" * 32,
        insecure=insecure,
        root_certificates_path="/runtime.pem",
        runtime_dependency_install=False,
        parent_pid=1,
        suppress_output=False,
        task_id=7,
    )


APP = """
import json, os, pathlib, random, signal, sys, threading
from unittest.mock import MagicMock
from moretta.deploy.runtime import flower_programs

def app():
    import numpy, torch
    path = sys.argv[sys.argv.index("--token-file") + 1]
    token = pathlib.Path(path).read_text()
    shown = [pathlib.Path(f"/proc/self/{name}").read_text() for name in ("cmdline", "environ")] + sys.argv
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "file": os.path.isfile(path),
        "token": token,
        "shown": any(token in text for text in shown),
        "arguments": sys.argv,
        "tasks": len(os.listdir("/proc/self/task")),
        "loaded": set(flower_programs._PRELOADED[sys.argv[0]]) <= set(sys.modules),
        "draws": [random.random(), numpy.random.random(), torch.rand(1).item(), os.urandom(4).hex()],
        "signals": [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGCHLD, signal.SIGTERM)],
        "folder": os.getcwd(),
    }
    part = pathlib.Path(sys.argv[sys.argv.index("--root-certificates") + 1])
    (part / f"{os.getpid()}.part").write_text(json.dumps(found))
    os.rename(part / f"{os.getpid()}.part", part / f"{os.getpid()}.json")

program = MagicMock()
program.load.return_value = app
flower_programs.metadata = MagicMock()
flower_programs.metadata.distribution.return_value.entry_points.select.return_value = [program]
if "LIGHT" in os.environ:  # where it does not matter what is imported
    flower_programs._PRELOADED = dict.fromkeys(flower_programs._PRELOADED, ("json",))
flower_programs.main()
"""


@dataclass
class Launcher:
    """An executor whose apps write down what they find, instead of what Flower's do."""

    executor: AppExecutor
    app: TaskType
    folder: Path

    def launch(self, token: str) -> dict[str, Any]:
        before = set(self.folder.glob("*.json"))
        spec = replace(_spec(self.app), token=token, root_certificates_path=str(self.folder))
        assert self.executor.launch(spec).status == LaunchResultStatus.ACCEPTED
        while not (new := set(self.folder.glob("*.json")) - before):
            time.sleep(0.01)
        found: dict[str, Any] = json.loads(new.pop().read_text())
        return found


@pytest.fixture(scope="module")
def launcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    folder = tmp_path_factory.mktemp("apps")
    (folder / "app.py").write_text(APP)
    launcher = Launcher(AppExecutor(request.param), request.param, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            flower_programs, "flower_command", lambda *words: [sys.executable, "-P", str(folder / "app.py"), *words]
        )
        for name in THREAD_VARIABLES:
            patch.setenv(name, "1")
        yield launcher
    if launcher.executor._requests is not None:
        launcher.executor._requests.close()


both = pytest.mark.parametrize("launcher", [TaskType.CLIENT_APP, TaskType.SERVER_APP], indirect=True)


@both
def test_an_app_gets_its_token_and_neither_command_line_nor_environment_shows_it(launcher: Launcher) -> None:
    launcher.launch("12" * 32)
    open_before = psutil.Process().num_fds()
    found = launcher.launch("ab" * 32)
    assert (found["file"], found["token"], found["shown"]) == (True, "ab" * 32, False)
    assert found["arguments"][0] == str(launcher.app)
    assert found["arguments"][found["arguments"].index("--parent-pid") + 1] == str(os.getpid())
    assert psutil.Process().num_fds() == open_before


@both
def test_apps_are_forks_of_a_process_without_threads_and_start_as_new_ones_do(launcher: Launcher) -> None:
    one, two = launcher.launch("12" * 32), launcher.launch("ab" * 32)
    assert one["parent"] == two["parent"] != os.getpid()
    assert one["pid"] != two["pid"]
    assert not {*one["draws"]} & {*two["draws"]}  # no two apps draw the same noise
    for found in (one, two):
        assert (found["tasks"], found["loaded"], found["signals"]) == (1, True, [True, True])
        assert found["folder"] == str(Path.cwd())
    assert len(list(Path(f"/proc/{one['parent']}/task").iterdir())) == 1


@pytest.mark.parametrize("launcher", [TaskType.SERVER_APP], indirect=True)
def test_the_process_that_is_forked_is_replaced_if_it_was_killed_and_ends_with_its_executor(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT", "1")
    first = psutil.Process(launcher.launch("12" * 32)["parent"])
    first.kill()
    psutil.wait_procs([first], timeout=60)
    second = psutil.Process(launcher.launch("ab" * 32)["parent"])
    assert second.pid != first.pid
    assert not [child for child in second.children() if child.status() == psutil.STATUS_ZOMBIE]
    assert launcher.executor._requests is not None
    launcher.executor._requests.close()
    assert psutil.wait_procs([second], timeout=60)[1] == []


@pytest.mark.parametrize("app", [TaskType.CLIENT_APP, TaskType.SERVER_APP])
def test_nothing_runs_but_the_one_kind_of_app(app: TaskType) -> None:
    executor = AppExecutor(app)
    assert executor.get_eligible_capacity(set(TaskType)) == ({app}, set())
    for spec in [*(_spec(t) for t in TaskType if t is not app), _spec(app, insecure=True)]:
        assert executor.launch(spec).status == LaunchResultStatus.FAILED


def test_flower_makes_its_executor_as_ours_expects() -> None:
    assert factory.SubprocessExecutor is SubprocessExecutor  # type: ignore[attr-defined]
    assert "SubprocessExecutor()" in Path(factory.__file__).read_text()
