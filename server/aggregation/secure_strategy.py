"""A round under secure aggregation: four requests, after which there is a sum of updates and no single one.

Flower 1.41 has SecAgg+ as `SecAggPlusWorkflow` for its older strategies: that waits in its own way for sites that are
lost, sends each site's metrics in the clear, and makes its masks as `moretta.shared.privacy.site_updates` says.
Its building blocks are used here over the same grid as all other requests.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from moretta.server.aggregation.checked_strategy import CheckedStrategy, bare_reply, checked_update
from moretta.server.grid.site_grid import SiteResponse, noting_failure_of
from moretta.shared.core import flower_private
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import PublicKeys, Shares, Update
from moretta.shared.privacy.site_updates import Words, changed, mask, mean_of_sum, shared_mask, signed, threshold
from moretta.shared.study.sections import ModelKind

T = TypeVar("T")


@dataclass
class SecureRound:
    """State of one round. Sites are known by name."""

    number: int
    session: str
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Public keys of the sites that take part, hexadecimal."""
    shares: dict[str, dict[str, str]] = field(default_factory=dict)
    """Sender -> receiver -> the share, encrypted for the receiver."""
    refused: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


@dataclass
class SecureStrategy(CheckedStrategy):
    """As `CheckedStrategy`, over a sum. A single update cannot be checked here: each site clips its own."""

    kind: ModelKind = "voice"
    trained: frozenset[str] = frozenset()
    """Names of the arrays that training changes: only they are aggregated."""
    find_outlying: bool = False
    _round: SecureRound = field(default_factory=lambda: SecureRound(0, ""))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """The sites agree on keys; then each gets the weights and what the others have shared with it."""
        messages = super().configure_train(server_round, arrays, config, grid)
        current = self._round = SecureRound(server_round, secrets.token_hex(16))
        least = self.study.aggregation.min_sites
        current.keys = self._step(wire.SECURE_KEYS, self.sites, _checked_keys, least, "gave keys", round=server_round)
        current.shares = self._step(
            wire.SECURE_SHARES,
            list(current.keys),
            lambda response: _checked_shares(response, current.keys.keys() - {response.site}),
            self._threshold,
            "shared their keys",
            keys=current.keys,
        )
        requests = []
        for message in messages:
            node = message.metadata.dst_node_id
            site = self.grid.nodes[node]
            if site in current.shares:
                others = {source: shares[site] for source, shares in current.shares.items() if source != site}
                own = wire.json_config(session=current.session, shares=others)
                own.update(message.content.config_records[wire.CONFIG])
                requests.append(Message(RecordDict({**message.content, wire.CONFIG: own}), node, self.call))
        return requests

    def _sound(self, number: int, response: SiteResponse) -> RecordDict:
        del number
        metrics, content = response.of(Update).metrics.figures(), response.content or RecordDict()
        values = sum(self._sent[name].size for name in self.trained)
        checked_update({wire.MASKED: np.zeros(values, np.uint32)}, content, max_norm=np.inf)
        self._metrics[response.site] = metrics
        return content

    def _require(self, number: int, used: dict[str, RecordDict], refused: dict[str, str], lost: dict[str, str]) -> None:
        for earlier, now in ((self._round.refused, refused), (self._round.lost, lost)):
            earlier.update(now)
            now.update({site: why for site, why in earlier.items() if site not in used})
        self._enough(used, self._threshold, "sent an update")
        super()._require(number, used, refused, lost)

    def _for_strategy(self, used: dict[str, RecordDict]) -> list[Message]:
        shapes = {name: self._sent[name].shape for name in self.trained}
        mean = mean_of_sum(self._unmasked(used), shapes, sites=len(used), study=self.study)
        return [bare_reply(wire.arrays_to_record(changed(self._sent, mean)), 1.0)]

    def _unmasked(self, masked: Mapping[str, RecordDict]) -> Words:
        """uint32 [values]: the sum of the updates, modulo 2^32."""
        owners, survivors = set(self._round.shares), sorted(masked)
        revealed = self._step(
            wire.SECURE_UNMASK,
            survivors,
            lambda response: _checked_shares(response, owners),
            self._threshold,
            "took the masks off",
            survivors=survivors,
        )
        vectors = [wire.arrays_of(masked[site])[wire.MASKED] for site in survivors]
        total: Words = np.sum(vectors, axis=0, dtype=np.uint32)
        helpers = sorted(revealed)[: self._threshold]
        secret = {site: _combined([revealed[other][site] for other in helpers], site) for site in owners}
        for site in survivors:
            total = total - mask(secret[site], len(total))
        for site in sorted(owners - set(survivors)):  # its masks in common with others are only in their updates
            for other in survivors:
                common = shared_mask(secret[site], bytes.fromhex(self._round.keys[other][0]), len(total))
                total = total - signed(common, other, site)
        return total

    @property
    def _threshold(self) -> int:
        return threshold(len(self._round.keys), self.study.aggregation.min_sites)

    def _step(
        self, call: str, sites: list[str], read: Callable[[SiteResponse], T], least: int, did: str, **values: Any
    ) -> dict[str, T]:
        """One step of the round: what usable responses hold, by site; failures of the others are noted."""
        config = wire.study_config(self.study, session=self._round.session, modality=self.kind, **values)
        content = RecordDict({wire.CONFIG: config})
        found: dict[str, T] = {}
        for response in self.grid.request(call, lambda _: content, sites=sites, deadline_seconds=self.deadline_seconds):
            with noting_failure_of(response.site, self._round.lost if response.lost else self._round.refused):
                found[response.site] = read(response)
        self._enough(found, least, did)
        return found

    def _enough(self, sites: Mapping[str, Any], least: int, did: str) -> None:
        if len(sites) >= least:
            return
        others = sorted((self._round.refused | self._round.lost).items())
        why = "; ".join(f"{site}: {reason}" for site, reason in others[:3])
        raise RunError(
            f"{len(sites)} of {len(self.sites)} sites {did} in round {self._round.number} of {self.call} ({why})",
            expected=f"at least {least}, or the masks stay on the sum",
            fix="let the sites named come back and resume the run; more sites tolerate more losses",
        )


def _checked_keys(response: SiteResponse) -> list[str]:
    """Two public keys, hexadecimal: a bad one would fail every site that has to use it."""
    keys = list(response.of(PublicKeys).keys)
    for key in keys:
        flower_private.bytes_to_public_key(bytes.fromhex(key))
    return keys


def _checked_shares(response: SiteResponse, sites: Collection[str]) -> dict[str, str]:
    """One share for each of these sites, and nothing else."""
    shares = dict(response.of(Shares).shares)
    if set(shares) != set(sites):
        raise ReleaseError("shares that are not one for each site")
    return shares


def _combined(shares: list[str], site: str) -> bytes:
    try:
        return flower_private.combine_shares([bytes.fromhex(share) for share in shares])
    except ValueError as error:
        raise RunError(
            f"the masks of {site} cannot be taken off: {error}", expected="shares of one secret", fix="resume the run"
        ) from error
