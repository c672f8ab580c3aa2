"""`moretta study run`: plan a study over enrolled sites, submit it to a running server, follow it to its end.

The registry says which sites can take part, not the sites themselves. A run that dies is submitted again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from moretta.deploy.runtime.control import Control, ControlError
from moretta.deploy.runtime.planning import check_names
from moretta.deploy.runtime.run_folder import Notify, Outcome, ProgressMonitor, conclude, interruptible
from moretta.server.enrollment.database import SiteRecord
from moretta.server.enrollment.findings import offer_findings
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import FINDINGS_FOLDER, ServerHome, running_server
from moretta.server.stages.lifecycle import announce_attempt, newest_attempt, working_pid, write_outcome
from moretta.server.stages.state import RESUME_FILE
from moretta.shared.audit.public_people import public_corpus
from moretta.shared.audit.site_attacks import check_trainable
from moretta.shared.core.device import resolve_device
from moretta.shared.core.errors import ExitCode, HomeError, StudyError
from moretta.shared.core.printable import use_run_id
from moretta.shared.study.limits import check_limits
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite, load_plan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import RequestStage

FRUITLESS_ATTEMPTS = 3
"""Attempts in a row without progress after which the study ends."""
CORPUS_NAME = "the sites' own"
_LAUNCH_SECONDS = 120.0
"""Most seconds from submission until a process works on the run."""
_STATUS_SECONDS = 2.0
_DEAD_SECONDS = 5.0
"""Seconds without a process after which a run counts as dead. Flower itself notices after a minute."""
_SETTLE_SECONDS = 2.0
"""How long after a run's end its files may come to say so."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def plan_deployment(
    home: ServerHome, study: Study, *, command: str, corpus_name: str | None = None, sites: tuple[str, ...] = ()
) -> DeploymentPlan:
    """Plan a study over enrolled sites.

    Args:
        corpus_name: what the report calls the clips, which the server never sees.
        sites: names of those that shall take part; empty means all that are enrolled.

    Raises:
        StudyError: as for `check_names`; no such device here; a site is not enrolled; or too few sites are there for
            its limits, or public people for its models.
        CorpusError: the folder of public people in [train] cannot be read.
    """
    check_names(study)
    resolve_device(study.run.device)
    known = {site.name: site for site in _registered(home)}
    enrolled = {name: site for name, site in known.items() if site.state == "enrolled"}
    for name in sites:
        if name not in enrolled:
            raise StudyError(
                f"the site {name} is {known[name].state if name in known else 'unknown'}",
                expected=f"enrolled ones: {', '.join(enrolled) or 'none'}",
                fix="`moretta server sites` lists them; `moretta server token` lets one join",
            )
    wanted = [enrolled[name] for name in sites or enrolled]
    taking_part = tuple(EnrolledSite(name=s.name, node=s.node_id) for s in wanted if s.node_id is not None)
    least = max(study.train.min_sites, *(study.min_sites(stage) for stage in get_args(RequestStage)))
    if len(taking_part) < least:
        raise StudyError(
            f"{len(taking_part)} enrolled sites that could take part",
            expected=f"at least {least}, as the study says",
            fix="let more sites join (`moretta server token`), or lower min_sites",
        )
    check_limits(study, sites=len(taking_part))
    check_trainable(study)
    public_corpus(study, "train")
    return DeploymentPlan(
        corpus_name=corpus_name or CORPUS_NAME,
        synthetic=False,
        study=study,
        sites=taking_part,
        command=command,
        warnings=tuple(
            f"{s.name} took no part: Flower does not know its node key yet" for s in wanted if s.node_id is None
        ),
        server_home=home.root,
    )


def plan_again(folder: Path, home: ServerHome, study: Study) -> DeploymentPlan:
    """The plan of a run that goes on, with the node ids that its sites have by now; another study is a StudyError."""
    plan = load_plan(folder)
    if not isinstance(plan, DeploymentPlan):
        raise StudyError(f"a {plan.kind} in {folder}", expected="a study over real sites", fix="choose another --out")
    if plan.study != study:
        found = f"the run in {folder} is of another study"
        raise StudyError(found, expected="the same study file", fix="choose another --out")
    nodes = {site.name: site.node_id for site in _registered(home) if site.state == "enrolled"}
    sites = tuple(EnrolledSite(name=s.name, node=nodes.get(s.name) or s.node) for s in plan.sites)
    return plan.model_copy(update={"sites": sites, "server_home": home.root})


def _registered(home: ServerHome) -> list[SiteRecord]:
    """Every site that ever enrolled, by name."""
    with closing(SiteRegistry.open(home.registry)) as registry:
        return registry.sites()


def connect(home: ServerHome) -> Control:
    """The SuperLink of the server that runs on a folder; where none does, that is a HomeError."""
    server = running_server(home)
    return Control(server.superlink, Path(server.superlink_ca).read_bytes())


class _ServerGoneError(Exception):
    """There was no server for too long."""


@dataclass
class StudyRun:
    """One study on its way over one server."""

    plan: DeploymentPlan
    folder: Path
    notify: Notify
    control: Callable[[], Control]
    clock: Callable[[], float] = time.monotonic

    def run(self) -> Outcome:
        """Run the study to its end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run can go on with `--resume`.
            RunError: the stages that need no site ended without an outcome.
        """
        self.plan.save(self.folder)
        taking_part = [site.name for site in self.plan.sites]
        findings = self.plan.server_home / FINDINGS_FOLDER
        offer_findings(findings, self.folder, study=self.plan.study.digest(), sites=taking_part)
        start, monitor = self.clock(), ProgressMonitor(self.folder, self.notify)
        with interruptible(fix=f"go on with: moretta study run ... --out {self.folder} --resume"):
            self._run_sites(monitor)
            monitor.finish()
        return conclude(self.folder, seconds=self.clock() - start, peak=monitor.peak)

    def _run_sites(self, monitor: ProgressMonitor) -> None:
        """Submit and follow, again and again, until the stages that need sites are over or come no further."""
        fruitless, cause = 0, ""
        while not monitor.sites_finished:
            before = self._progress()
            try:
                why = self._attempt(monitor)
            except _ServerGoneError as error:
                cause = str(error)
                break
            if why is None:
                return
            fruitless = 0 if self._progress() != before else fruitless + 1
            if fruitless >= FRUITLESS_ATTEMPTS:
                cause = f"{fruitless} attempts in a row came no further; the last one: {why}"
                break
            self.notify(f"The server's part ended without an outcome ({why}); it is submitted again")
        if cause:
            write_outcome(self.folder, code=ExitCode.RUN_FAILED, stage="", cause=cause)

    def _attempt(self, monitor: ProgressMonitor) -> str | None:
        """One submission; returns why it died, None if the stages that need sites are over."""
        number = newest_attempt(self.folder) + 1
        announce_attempt(self.folder, number)
        config: dict[str, str | int] = {"run-dir": str(self.folder), "central-stages": "later", "attempt": number}
        try:
            run_id = self._call(monitor, lambda control: control.submit(config))
            use_run_id(run_id)
            _log.info("attempt %d in %s is submitted as Flower's run %d", number, self.folder, run_id)
            try:
                return self._follow(monitor, run_id)
            except BaseException:
                self._stop(run_id)
                raise
        except BaseException:
            announce_attempt(self.folder, number + 1)  # whatever still works on the run ends itself
            raise

    def _follow(self, monitor: ProgressMonitor, run_id: int) -> str | None:
        launched, next_status = self.clock(), 0.0
        alive: float | None = None
        while not monitor.sites_finished:
            pids = _pids(self.folder)
            monitor.look(None, *pids)
            if pids:
                alive = self.clock()
            if self.clock() < next_status:
                continue
            next_status = self.clock() + _STATUS_SECONDS
            status = self._call(monitor, lambda control: control.status(run_id))
            if status.state == "finished":
                died = f"{status.result}: {' '.join(status.details.split())[:300] or 'no details'}"
                return None if self._settled(monitor) else died
            if alive is not None and self.clock() - alive > _DEAD_SECONDS:
                self._stop(run_id)
                return None if self._settled(monitor) else "its process died"
            if alive is None and self.clock() - launched > _LAUNCH_SECONDS:
                self._stop(run_id)
                return f"no process took up the run within {_LAUNCH_SECONDS:.0f} s"
        return None

    def _call(self, monitor: ProgressMonitor, call: Callable[[Control], _T]) -> _T:
        """Call the server; where it is not there, wait for it for a limited time."""
        wait = self.plan.study.stages.wait_seconds
        end, noted = self.clock() + wait, False
        while True:
            try:
                return call(self.control())
            except (ControlError, HomeError) as error:
                if not noted:
                    self.notify(f"The server is not there ({error.found}); waiting for it")
                    noted = True
                if self.clock() > end:
                    raise _ServerGoneError(f"no server for {wait:.0f} s: {error.found}") from error
                monitor.look(None, *_pids(self.folder))
                time.sleep(0.5)

    def _settled(self, monitor: ProgressMonitor) -> bool:
        """Whether the files of a run that Flower calls finished come to say so too, a moment later."""
        end = self.clock() + _SETTLE_SECONDS
        while not monitor.sites_finished and self.clock() < end:
            monitor.look(None)
        return monitor.sites_finished

    def _stop(self, run_id: int) -> None:
        with suppress(ControlError, HomeError):
            self.control().stop(run_id)

    def _progress(self) -> bytes:
        """Content of the file that every stage and round rewrites; empty before the first."""
        path = self.folder / RESUME_FILE
        return path.read_bytes() if path.exists() else b""


def _pids(folder: Path) -> tuple[int, ...]:
    pid = working_pid(folder)
    return () if pid is None else (pid,)
