"""Virtual sites are forks of one process that has imported everything, under Flower's own simulation engine."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

from moretta.shared.core import flower_private
from moretta.shared.core.workers import THREAD_VARIABLES

SCRIPT = """
import json, os, random, signal, threading, time
import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from moretta.deploy.runtime.flower_programs import preload
from moretta.deploy.runtime.simulated_sites import SiteProcesses
from moretta.shared.core import flower_private
from moretta.shared.core.errors import RunError

identity = flower_private.TaskIdentity
identity.task_id = identity.run_id = identity.node_id = 1
preload("flwr-clientapp", "flwr-serverapp")
threads = len(os.listdir("/proc/self/task"))

def respond(message, context):
    if message.metadata.message_type == "query.fail":
        raise ValueError("of this site")
    time.sleep(0.3)
    facts = {"pid": os.getpid(), "draws": [random.random(), float(np.random.random())]}
    context.state["seen"] = message.content["arrays"]
    return Message(RecordDict({"arrays": message.content["arrays"], "facts": flwr_config(facts)}), reply_to=message)

def flwr_config(facts):
    from flwr.app import ConfigRecord
    return ConfigRecord({"json": json.dumps(facts)})

def sent(kind="query.x"):
    arrays = ArrayRecord([np.array([[0.1, -0.0, np.nan]], np.float32), np.arange(3, dtype=np.int64)])
    message = Message(RecordDict({"arrays": arrays}), 2, kind)
    flower_private.set_message_id(message, "m")
    return message

context = Context(1, 2, {"partition-id": 0}, RecordDict(), {"run-dir": "x"})
backend = SiteProcesses(2, respond)
found = {"threads": threads, "pid": os.getpid(), "workers": backend.num_workers}
replies = [None, None]
def ask(number):
    replies[number] = backend.process_message(sent(), context)
both = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
start = time.monotonic()
[t.start() for t in both]; [t.join() for t in both]
found["facts"] = [json.loads(m.content["facts"]["json"]) for m, _ in replies]
given = sent().content["arrays"]
found["same"] = all(
    a.numpy().tobytes() == b.numpy().tobytes() and a.dtype == b.dtype
    for m, c in replies for record in (m.content["arrays"], c.state["seen"])
    for a, b in zip(given.values(), record.values(), strict=True)
)
failed, _ = backend.process_message(sent("query.fail"), context)
found["failed"] = failed.error.reason
pids = [facts["pid"] for facts in found["facts"]]
os.kill(pids[0], signal.SIGKILL)
outcomes = []
for _ in range(4):
    try:
        backend.process_message(sent(), context)
        outcomes.append("responded")
    except RunError as error:
        outcomes.append(error.found)
found["after one died"] = sorted(outcomes)
os.kill(pids[1], signal.SIGKILL)
outcomes = []
for _ in range(3):
    try:
        backend.process_message(sent(), context)
    except RunError as error:
        outcomes.append(error.found)
found["after all died"] = outcomes
last = SiteProcesses(1, respond)
reply, _ = last.process_message(sent(), context)
found["left"] = json.loads(reply.content["facts"]["json"])["pid"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_sites_respond_at_the_same_time_in_forks_that_draw_other_numbers(found: Any) -> None:
    one, two = found["facts"]
    assert found["threads"] == 1  # a fork would lose the others
    assert len({one["pid"], two["pid"], found["pid"]}) == 3
    assert not {*one["draws"]} & {*two["draws"]}
    assert found["workers"] == 2


def test_arrays_and_the_context_arrive_bit_by_bit(found: Any) -> None:
    assert found["same"] is True


def test_an_app_s_error_is_the_response_of_that_site(found: Any) -> None:
    assert found["failed"] == "ValueError: of this site"


def test_a_process_that_dies_costs_one_message_and_nobody_waits_for_one_that_is_gone(found: Any) -> None:
    died = "a process of simulated sites died"
    assert found["after one died"] == [died, *["responded"] * 3]
    assert found["after all died"] == [died] * 3


def test_no_process_outlives_the_engine(found: Any) -> None:
    assert not psutil.pid_exists(found["left"]) or psutil.Process(found["left"]).status() == psutil.STATUS_ZOMBIE


def test_flower_s_engine_takes_its_backend_from_where_ours_is_put() -> None:
    from flwr.server.superlink.fleet.vce import vce_api

    assert "from .backend.raybackend import RayBackend" in inspect.getsource(vce_api.start_vce)
    assert "return RayBackend(backend_config)" in inspect.getsource(vce_api.start_vce)
    known = {"build", "num_workers", "is_worker_idle", "terminate", "process_message"}
    assert {name for name in vars(flower_private.Backend) if not name.startswith("_")} == known
