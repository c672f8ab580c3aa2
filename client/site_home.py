"""The folder of a site: what lies where in it, and what `site.toml` says of its clips.

site.toml        where the clips are, whose they are, who is held out; the steward writes it
policy.toml      what this site refuses (moretta.client.policy)
keys/            identity.json, the one file that says who this site is, and copies of parts of it that Flower reads
pseudonym.key    turns speakers into pseudonyms; never leaves
ledger.jsonl     every privacy loss
release/         what was released, by study
offers/          studies that were offered, with their public arrays (moretta.client.approval.offers)
approvals/       the decisions of the steward; approvals.jsonl has every decision ever
speakers/        what anonymizers must know of the speakers at the next release; never leaves
updates/         the last update of each model, so that a repeated request gets the same response
locks/           empty files: one release of a study is made at a time
flower/          Flower's own files
logs/, site.log  what the processes and the handlers said
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.shared.core.atomic import locked, write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.printable import to_toml

HOME_VARIABLE = "MORETTA_SITE"
SITE_HOME = "site-home"
"""Key of the configuration that Flower's SuperNode hands to the ClientApp: the site's folder."""


class SiteFile(BaseModel):
    """The content of `site.toml`. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: Path
    """The folder of clips; a relative path starts at the site's folder."""
    speakers: tuple[SpeakerId, ...] = ()
    """The speakers who are this site's; empty means everybody in the corpus."""
    held_out: tuple[SpeakerId, ...] | None = None
    """Speakers who are never trained on; None lets a keyed rule choose by the study's folds."""
    simulated_seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Tests only: all noise comes from this seed, and who knows it can subtract the noise. Policy refuses it unless
    `allow_seeded_noise` is set."""


@dataclass(frozen=True, slots=True)
class SiteHome:
    """Paths of a site's folder, and its `site.toml`."""

    root: Path

    @property
    def site_file(self) -> Path:
        """The steward's description of the clips."""
        return self.root / "site.toml"

    @property
    def policy_file(self) -> Path:
        """The site's policy."""
        return self.root / "policy.toml"

    @property
    def keys(self) -> Path:
        """The folder of keys."""
        return self.root / "keys"

    @property
    def identity_file(self) -> Path:
        """The site's name, server, certificate and keys."""
        return self.keys / "identity.json"

    @property
    def flower(self) -> Path:
        """Flower's own folder."""
        return self.root / "flower"

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.root / "logs"

    def prepare(self) -> None:
        """Make the folder, open to its owner only."""
        try:
            for folder in (self.root, self.keys, self.logs, self.flower):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise HomeError(f"the site's folder {self.root} cannot be made: {error.strerror}") from error

    def read(self) -> SiteFile:
        """The content of `site.toml`, with its corpus as an absolute path."""
        try:
            content = SiteFile.model_validate(tomllib.loads(self.site_file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise HomeError(
                f"no site in {self.root}", expected=self.site_file.name, fix="join a server: moretta site join STRING"
            ) from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise HomeError(
                f"{self.site_file} cannot be used: {_first_line(error)}",
                expected=f"the keys {', '.join(SiteFile.model_fields)}",
                fix="correct the file",
            ) from error
        return content.model_copy(update={"corpus": self.root.absolute() / content.corpus})

    def write(self, content: SiteFile) -> None:
        """Write `site.toml`, whole or not at all."""
        write_atomic(self.site_file, to_toml(content.model_dump(mode="json")), mode=0o600)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one process, until the block or the process ends."""
        with ExitStack() as lock:
            try:
                lock.enter_context(locked(self.root / ".lock", wait=False))
            except BlockingIOError as error:
                raise HomeError(
                    f"the site's folder {self.root} is in use by another process",
                    fix="end the other `moretta site` first",
                ) from error
            yield


def default_home() -> Path:
    """The folder that `MORETTA_SITE` names, else `~/.moretta/site`."""
    named = os.environ.get(HOME_VARIABLE)
    try:
        return Path(named) if named else Path.home() / ".moretta" / "site"
    except RuntimeError as error:
        raise HomeError(
            "this account has no home folder", fix=f"name the site's folder with --home, or in {HOME_VARIABLE}"
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
