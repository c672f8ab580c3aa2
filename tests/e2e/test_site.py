"""A site as a steward runs it: the installed command, against a real server and Flower's SuperLink."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from commands import command_lines
from cryptography.hazmat.primitives import serialization
from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from servers import ServerProcess, eventually, miss, moretta
from sites import SiteProcess

from moretta.client.transport.identity import Identity
from moretta.deploy.runtime.control import BUNDLE as FOLDER
from moretta.server.home import CONNECTION
from moretta.shared.core.errors import ExitCode
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess.init(tmp_path_factory.mktemp("server") / "home", port=_free_port())
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_corpus(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture(scope="module")
def site(server: ServerProcess, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    site = SiteProcess.join(server, "clinic-a", tmp_path_factory.mktemp("sites") / "a", corpus).start()
    yield site
    site.close()


def test_a_joined_site_comes_online_and_the_doctor_finds_no_fault(server: ServerProcess, site: SiteProcess) -> None:
    state = site.wait_online()
    assert (state["site"], state["connected"]) == ("clinic-a", True)
    failed = [line for line in (site.folder / "logs" / "run.log").read_text().splitlines() if " failed: " in line]
    # a server takes no signature for one of before its start, so a site that is there within seconds signs again
    assert all("signed-before-start" in line for line in failed), failed
    assert len(failed) == state["failed_calls"]
    findings = json.loads(moretta("site", "doctor", "--home", site.folder, "--json"))["findings"]
    assert {f["verdict"] for f in findings} == {"ok"}
    status = json.loads(moretta("site", "status", "--home", site.folder, "--json"))
    assert status["server_sees"]["state"] == "enrolled"
    moretta("site", "status", "--home", site.folder, "--local")
    assert server.sites()["clinic-a"].node_id


def test_a_join_string_is_good_for_once_and_a_refusal_writes_nothing(
    server: ServerProcess, corpus: Path, tmp_path: Path
) -> None:
    string = server.token("clinic-once").encode()
    join = ["site", "join", string, "--corpus", corpus, "--home"]
    moretta(*join, tmp_path / "one")
    moretta(*join, tmp_path / "two", code=ExitCode.ENROLLMENT)
    assert not (tmp_path / "two").exists()
    moretta(*join, tmp_path / "one", code=ExitCode.HOME)  # an enrolled site is not joined over
    moretta("site", "join", string[:-1], "--corpus", corpus, "--home", tmp_path / "three", code=ExitCode.ENROLLMENT)
    moretta("site", "join", string, "--corpus", tmp_path / "no", "--home", tmp_path / "three", code=ExitCode.CORPUS)
    assert not (tmp_path / "three").exists()
    moretta("site", "leave", "--home", tmp_path / "one")
    assert server.sites()["clinic-once"].state != "enrolled"


def test_the_control_api_cannot_be_reached_through_the_connector(server: ServerProcess, site: SiteProcess) -> None:
    """Not even by who holds the site's own node key and signs as its SuperNode does."""
    identity = Identity.load(site.folder / "keys" / "identity.json")
    key = serialization.load_ssh_private_key(identity.node_key.encode(), None)
    url = f"https://127.0.0.1:{site.connector_port()}"
    context = ssl.create_default_context(cafile=str(site.folder / "keys" / "connector.pem"))
    before = len(server.audit())
    with httpx.Client(base_url=url, verify=context, trust_env=False) as http:
        for path, request in (("list-nodes", ListNodesRequest()), ("start-run", StartRunRequest())):
            timestamp = now().isoformat()
            headers = {
                "flwr-public-key": base64.b64encode(public_key_to_bytes(key.public_key())).decode(),  # type: ignore[union-attr, arg-type]
                "flwr-timestamp": timestamp,
                "flwr-signature": base64.b64encode(sign_message(key, timestamp.encode())).decode(),  # type: ignore[arg-type]
            }
            body = request.SerializeToString()
            assert http.post(f"/v1/control/{path}", content=body, headers=headers).status_code == 403
            assert http.post(f"/v1/fleet/../control/{path}", content=body, headers=headers).status_code == 403
        assert http.post("/v1/fleet/pull-messages", content=b"").status_code == 403  # unsigned
    seen = {line["method"] for line in server.audit()[before:] if line.get("event") == "relay"}
    assert seen <= {"pull-messages", "send-node-heartbeat"}


def test_another_account_of_the_machine_can_take_no_task_and_see_no_secret(site: SiteProcess) -> None:
    """It can reach the SuperNode's port on loopback, and read every command line."""
    site.wait_online()
    commands = list(command_lines(site.children()).values())
    (supernode,) = [line for line in commands if "--superexec-auth-secret-file" in line and "--superlink" in line]
    assert [line for line in commands if "flower-superexec" in line and "flwr-clientapp" in line]
    url = f"https://127.0.0.1:{supernode[supernode.index('--port') + 1]}/v1/runtime"
    headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    with httpx.Client(verify=False, trust_env=False, headers=headers) as http:  # noqa: S501 - an intruder's choice
        for path in ("acquire-task", "pull-task-input", "pull-object"):
            assert http.post(f"{url}/{path}", content=b"").status_code in (400, 401)
    secret = (site.folder / "keys" / "runtime.secret").read_text()
    assert not [line for line in commands if secret in " ".join(line)]


def test_a_renewal_beside_the_running_site_is_taken_over_and_no_call_is_lost(
    server: ServerProcess, site: SiteProcess
) -> None:
    before = site.wait_online()
    old = Identity.load(site.folder / "keys" / "identity.json").certificate.serial_number
    moretta("site", "renew", "--home", site.folder)
    new = Identity.load(site.folder / "keys" / "identity.json").certificate.serial_number
    assert new != old

    def relayed_under_the_new() -> bool:
        serials = [line["serial"] for line in server.audit() if line.get("event") == "relay"]
        return bool(serials) and serials[-1] == f"{new:x}"

    eventually(relayed_under_the_new, 200)
    after = site.wait_online()
    assert after["failed_calls"] == before["failed_calls"]
    assert after["supernode"] == before["supernode"]
    assert after["certificate_ends"] >= before["certificate_ends"]


TAMPERED_CLIENT = """
from pathlib import Path
Path({marker!r}).write_text("foreign code ran at the site")
from moretta.client.app import app as _app
app = _app
"""
ASKING_SERVER = """
import json
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    asked = [
        Message(RecordDict({{"config": ConfigRecord({{"version": 1}})}}), message_type="query.hello", dst_node_id=node)
        for node in grid.get_node_ids()
    ]
    replies = grid.send_and_receive(asked, timeout=90)
    told = [r.error.reason if r.has_error() else sorted(r.content["config"]) for r in replies]
    Path({answers!r}).write_text(json.dumps(told))
"""


def _submit(server: ServerProcess, folder: Path, *, client: str, answers: Path) -> None:
    """Submit a bundle that looks like Moretta's, as anybody could who has the server."""
    bundle = folder / "moretta-fab"
    shutil.copytree(FOLDER, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "moretta_fab" / "server_app.py").write_text(ASKING_SERVER.format(answers=str(answers)))
    if client:
        (bundle / "moretta_fab" / "client_app.py").write_text(client)
    environment = {**os.environ, "FLWR_HOME": server.state["flwr_home"], "FLWR_TELEMETRY_ENABLED": "0"}
    flwr = Path(sys.executable).parent / "flwr"
    done = subprocess.run(
        [flwr, "run", bundle, CONNECTION, "--format", "json"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert '"success": true' in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("part", ["client", "server"])
def test_a_tampered_bundle_is_refused_by_the_site_and_the_server_gets_the_reason_at_once(
    server: ServerProcess, site: SiteProcess, tmp_path: Path, part: str
) -> None:
    """One with foreign code for the site, and one whose code for the site is Moretta's own and the rest is not."""
    site.wait_online()
    marker, answers = tmp_path / "marker", tmp_path / "answers.json"
    client = TAMPERED_CLIENT.format(marker=str(marker)) if part == "client" else ""
    _submit(server, tmp_path, client=client, answers=answers)
    reported = json.loads(eventually(lambda: answers.exists() and answers.read_text(), 200))
    assert reported == ["The FAB could not be verified."]
    assert not marker.exists()
    assert "refused the code of run" in site.log
    assert not list((site.folder / "flower").rglob("client_app.py"))
    site.wait_online()


def test_sigterm_ends_all_in_order_and_the_site_can_come_back_at_once(server: ServerProcess, site: SiteProcess) -> None:
    """A SuperNode that signs off is not refused for a minute, as a killed one is."""
    site.wait_online()
    children = site.children()
    assert len(children) >= 2  # the SuperNode and Flower's executor under it
    assert site.stop() == ExitCode.OK
    assert site.state is None
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    state = site.start().wait_online()
    assert state["supernode_starts"] == 1
    assert "still counts the last one as online" not in site.log


def test_two_processes_on_one_folder_are_refused(site: SiteProcess) -> None:
    site.wait_online()
    moretta("site", "run", "--home", site.folder, code=ExitCode.HOME)
    moretta("site", "leave", "--home", site.folder, code=ExitCode.HOME)
    moretta("site", "join", "x", "--home", site.folder, "--replace", code=ExitCode.HOME)


def test_a_policy_that_refuses_the_site_itself_stops_it_before_it_calls(
    server: ServerProcess, corpus: Path, tmp_path: Path
) -> None:
    site = SiteProcess.join(server, "clinic-c", tmp_path / "c", corpus)
    with (site.folder / "site.toml").open("a") as file:
        file.write("simulated_seed = 1\n")
    moretta("site", "run", "--home", site.folder, code=ExitCode.REFUSED)
    assert not [line for line in server.audit() if line.get("event") == "relay" and line.get("site") == "clinic-c"]


def test_a_revoked_site_ends_and_says_why_and_comes_back_with_a_new_string(
    server: ServerProcess, site: SiteProcess, tmp_path: Path
) -> None:
    site.wait_online()
    moretta("server", "revoke", "clinic-a", "--server", server.folder)
    assert site.process is not None
    assert site.process.wait(200) == ExitCode.ENROLLMENT
    assert "does not know this site any more: revoked" in site.log
    assert "--reenroll" in site.log
    assert not site.children()
    again = tmp_path / "again"
    again.write_text(server.token("clinic-a", reenroll=True).encode())
    moretta("site", "join", f"@{again}", "--home", site.folder, "--replace")
    site.start()


def test_a_killed_site_leaves_nothing_behind_once_it_is_back(server: ServerProcess, site: SiteProcess) -> None:
    site.wait_online()
    left, logged = site.children(), len(site.log)
    site.kill()
    assert [p for p in left if p.is_running()]  # the SuperNode outlives its supervisor
    site.start(online=False)
    eventually(lambda: not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 200)
    eventually(lambda: "still counts the last one as online" in site.log[logged:], 200)
    miss(server.folder, "clinic-a")  # after a minute in which the site tries again and again
    state = site.wait_online()
    assert state["supernode_starts"] > 1
    moretta("site", "doctor", "--home", site.folder)
