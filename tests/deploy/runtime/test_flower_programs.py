"""Who may take a site's tasks: the site's own executor, and no other account of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
from moretta.client.transport.identity import openssh_private
from moretta.client.transport.loopback import self_signed
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.flower_programs import AppExecutor
from moretta.deploy.site.supernode import Runtime, SuperNodeCommand

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
    assert not own.AcquireTask(request).HasField("task")  # there is none, and who knows the secret is told so


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


@pytest.mark.parametrize("app", [TaskType.CLIENT_APP, TaskType.SERVER_APP])
def test_an_app_gets_its_token_and_its_command_line_does_not_show_it(
    app: TaskType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    script = tmp_path / str(app)
    script.write_text(
        f"#!{sys.executable} -S\n"
        "import json, os, pathlib, sys\n"
        "file = sys.argv[sys.argv.index('--token-file') + 1]\n"
        "read = lambda path: pathlib.Path(path).read_text()\n"
        "told = [os.path.isfile(file), read(file), read('/proc/self/cmdline')]\n"
        f"pathlib.Path({str(note) + '.part'!r}).write_text(json.dumps(told))\n"
        f"os.rename({str(note) + '.part'!r}, {str(note)!r})\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    open_before = psutil.Process().num_fds()
    assert AppExecutor(app).launch(_spec(app)).status == LaunchResultStatus.ACCEPTED
    while not note.exists():
        time.sleep(0.01)
    is_file, token, command_line = json.loads(note.read_text())
    assert is_file
    assert token == "ab" * 32
    assert token not in command_line
    assert "--parent-pid" in command_line
    assert psutil.Process().num_fds() == open_before


@pytest.mark.parametrize("app", [TaskType.CLIENT_APP, TaskType.SERVER_APP])
def test_nothing_runs_but_the_one_kind_of_app(app: TaskType) -> None:
    executor = AppExecutor(app)
    assert executor.get_eligible_capacity(set(TaskType)) == ({app}, set())
    for spec in [*(_spec(t) for t in TaskType if t is not app), _spec(app, insecure=True)]:
        assert executor.launch(spec).status == LaunchResultStatus.FAILED


def test_flower_makes_its_executor_as_ours_expects() -> None:
    assert factory.SubprocessExecutor is SubprocessExecutor  # type: ignore[attr-defined]
    assert "SubprocessExecutor()" in Path(factory.__file__).read_text()
