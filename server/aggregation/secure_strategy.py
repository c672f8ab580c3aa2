"""A round under secure aggregation: four questions, after which there is a sum of updates and no single one.

Flower 1.41 has SecAgg+ as `SecAggPlusWorkflow` for its older strategies: that waits in its own way for sites that are
lost, sends each site's metrics in the clear, and makes its masks as `moretta.shared.privacy.secure_aggregation`
describes. Its
building blocks are used here over the same exchange as all other questions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Message, RecordDict

from moretta.server.aggregation.checks import packed_problem, update_problem
from moretta.server.aggregation.guarded import GuardedStrategy, bare
from moretta.server.stages.site_failures import noting_failure_of
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import PublicKeys, Shares, Update
from moretta.shared.privacy.clipping import changed
from moretta.shared.privacy.secure_aggregation import Words, mask, mean_of_sum, shared_mask, signed, threshold
from moretta.shared.study.fusion import ModelKind

if TYPE_CHECKING:
    from moretta.server.grid.pending_request import SiteResponse

Step = Callable[[str], RecordDict]


@dataclass
class Attempt:
    """What a round has brought so far. Sites are known by name."""

    number: int
    session: str
    question: RecordDict
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Public keys of who takes part, hexadecimal."""
    shares: dict[str, dict[str, str]] = field(default_factory=dict)
    """From -> to -> what only the receiver can read."""
    refused: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


@dataclass
class SecureStrategy(GuardedStrategy):
    """As `GuardedStrategy`, over a sum. What a single update is cannot be checked: sites clip their own."""

    kind: ModelKind = "voice"
    trained: frozenset[str] = frozenset()
    """Names of the arrays that training changes: only they are aggregated."""
    _total: Words = field(default_factory=lambda: np.zeros(0, np.uint32))

    def _requested(
        self, number: int, question: RecordDict
    ) -> tuple[dict[str, RecordDict], dict[str, str], dict[str, str]]:
        attempt = Attempt(number, secrets.token_hex(16), question)
        self._share_keys(attempt)
        masked = self._masked(attempt)
        self._total = self._unmasked(attempt, masked)
        others = [
            {s: why for s, why in missing.items() if s not in masked} for missing in (attempt.refused, attempt.lost)
        ]
        return masked, others[0], others[1]

    def _messages(self, number: int, used: dict[str, RecordDict]) -> list[Message]:
        del number
        shapes = {name: self._sent[name].shape for name in self.trained}
        mean = mean_of_sum(self._total, shapes, sites=len(used), study=self.study)
        return [bare(wire.arrays_to_record(changed(self._sent, mean)), 1.0)]

    def _outlying(self, used: dict[str, RecordDict]) -> dict[str, str]:
        del used  # only their sum is known
        return {}

    def _share_keys(self, attempt: Attempt) -> None:
        """Who takes part agrees on keys: `attempt.keys`, and `attempt.shares` of who is still there after it."""
        least = self.study.aggregation.min_sites
        responses = self._step(wire.SECURE_KEYS, lambda _: self._content(attempt, round=attempt.number))
        attempt.keys = self._read(attempt, responses, lambda response: _keys(response.of(PublicKeys)))
        self._enough(attempt, attempt.keys, least, "gave keys")
        responses = self._step(
            wire.SECURE_SHARES, lambda _: self._content(attempt, keys=attempt.keys), sites=list(attempt.keys)
        )
        attempt.shares = self._read(
            attempt, responses, lambda response: _shares(response.of(Shares), attempt.keys, response.site)
        )
        self._enough(attempt, attempt.shares, self._threshold(attempt), "shared their keys")

    def _masked(self, attempt: Attempt) -> dict[str, RecordDict]:
        """The answers to the training question, whose arrays are covered."""

        def content(site: str) -> RecordDict:
            others = {source: shares[site] for source, shares in attempt.shares.items() if source != site}
            config = wire.json_config(session=attempt.session, shares=others)
            config.update(attempt.question.config_records[wire.CONFIG])
            return RecordDict({**attempt.question, wire.CONFIG: config})

        expected = {wire.MASKED: np.zeros(sum(self._sent[name].size for name in self.trained), np.uint32)}

        def checked(response: SiteResponse) -> RecordDict:
            metrics, content = response.of(Update).metrics.figures(), response.content or RecordDict()
            problem = packed_problem(expected, content)
            problem = problem or update_problem(expected, wire.arrays_of(content), max_norm=np.inf)
            if problem is not None:
                raise ReleaseError(problem)
            self._metrics[response.site] = metrics
            return content

        responses = self._step(self.call, content, sites=list(attempt.shares))
        masked = self._read(attempt, responses, checked)
        self._enough(attempt, masked, self._threshold(attempt), "sent an update")
        return masked

    def _unmasked(self, attempt: Attempt, masked: dict[str, RecordDict]) -> Words:
        """uint32 [values]: the sum of the updates, modulo 2^32."""
        survivors, away = sorted(masked), sorted(attempt.shares.keys() - masked)
        owners = set(attempt.shares)
        responses = self._step(
            wire.SECURE_UNMASK, lambda _: self._content(attempt, survivors=survivors), sites=survivors
        )
        revealed = self._read(attempt, responses, lambda response: _shares(response.of(Shares), owners, None))
        least = self._threshold(attempt)
        self._enough(attempt, revealed, least, "took the masks off")
        vectors = [wire.arrays_of(masked[site])[wire.MASKED] for site in survivors]
        total: Words = np.sum(vectors, axis=0, dtype=np.uint32)
        secret = {
            site: _combined([revealed[other][site] for other in sorted(revealed)[:least]], site) for site in owners
        }
        for site in survivors:
            total = total - mask(secret[site], len(total))
        for site in away:  # its masks in common with the others are in their updates and not in one of its own
            for other in survivors:
                common = shared_mask(secret[site], bytes.fromhex(attempt.keys[other][0]), len(total))
                total = total - signed(common, other, site)
        return total

    def _threshold(self, attempt: Attempt) -> int:
        return threshold(len(attempt.keys), self.study.aggregation.min_sites)

    def _content(self, attempt: Attempt, **values: Any) -> RecordDict:
        config = wire.study_config(self.study, session=attempt.session, modality=self.kind, **values)
        return RecordDict({wire.CONFIG: config})

    def _step(self, call: str, content: Step, *, sites: list[str] | None = None) -> list[SiteResponse]:
        return self.site_grid.ask(
            call, content, sites=self.sites if sites is None else sites, deadline_seconds=self.deadline_seconds
        )

    def _read(
        self, attempt: Attempt, responses: list[SiteResponse], read: Callable[[SiteResponse], Any]
    ) -> dict[str, Any]:
        """What usable answers say, by site; the others are noted."""
        found = {}
        for response in responses:
            with noting_failure_of(response.site, attempt.lost if response.lost else attempt.refused):
                found[response.site] = read(response)
        return found

    def _enough(self, attempt: Attempt, sites: dict[str, Any], least: int, did: str) -> None:
        if len(sites) >= least:
            return
        others = sorted((attempt.refused | attempt.lost).items())
        why = "; ".join(f"{site}: {reason}" for site, reason in others[:3])
        raise RunError(
            f"{len(sites)} of {len(self.sites)} sites {did} in round {attempt.number} of {self.call} ({why})",
            expected=f"at least {least}, or the masks stay on the sum",
            fix="let the sites named come back and resume the run; more sites tolerate more losses",
        )


def _keys(received: PublicKeys) -> list[str]:
    """Two public keys, hexadecimal: a bad one would fail everybody who has to use it."""
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key

    for key in received.keys:
        bytes_to_public_key(bytes.fromhex(key))
    return list(received.keys)


def _shares(received: Shares, sites: Collection[str], sender: str | None) -> dict[str, str]:
    """Shares for everybody but the sender, and nothing else."""
    if set(received.shares) != set(sites) - {sender}:
        raise ReleaseError("shares that are not one for each site")
    return dict(received.shares)


def _combined(shares: list[str], site: str) -> bytes:
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares

    try:
        return combine_shares([bytes.fromhex(share) for share in shares])
    except ValueError as error:
        raise RunError(
            f"the masks of {site} cannot be taken off: {error}", expected="shares of one secret", fix="resume the run"
        ) from error
