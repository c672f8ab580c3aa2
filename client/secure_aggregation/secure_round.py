"""A site's part in secure aggregation: four answers a round, after which the server knows a sum and no summand.

The server is taken to do as agreed and to be curious. One that hands a site keys of its own making in the others'
place is not defended against: who is who is what the server's certificate authority says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping

from moretta.client.secure_aggregation.state import Session, SessionStore
from moretta.shared.core.errors import RefusedError
from moretta.shared.privacy.secure_aggregation import MAX_SITES, Words, agreed_key, mask, shared_mask, signed, threshold

Keys = Mapping[str, tuple[bytes, bytes]]
"""For the masks, and for what sites send each other; by site."""


def make_keys(store: SessionStore, number: str, round_number: int) -> tuple[bytes, bytes]:
    """First answer: two public keys, PEM. A new session takes the place of any other."""
    from moretta.shared.core.flower_private import generate_key_pairs, private_key_to_bytes, public_key_to_bytes

    session = store.find(number)
    if session is None:
        private, public = zip(*(generate_key_pairs() for _ in range(2)), strict=True)
        session = Session(
            number=number,
            round=round_number,
            mask_key=private_key_to_bytes(private[0]).hex(),
            share_key=private_key_to_bytes(private[1]).hex(),
            public=(public_key_to_bytes(public[0]).hex(), public_key_to_bytes(public[1]).hex()),
        )
        store.keep(session)
    return bytes.fromhex(session.public[0]), bytes.fromhex(session.public[1])


def share_keys(store: SessionStore, number: str, site: str, peers: Keys, *, min_sites: int) -> dict[str, bytes]:
    """Second answer: shares of this site's secrets, one for each other site, which only that site can read.

    Args:
        store: of the model.
        number: of the session.
        site: this one's name.
        peers: the public keys of everybody who takes part, this site included.
        min_sites: fewer are refused.

    Raises:
        RefusedError: too few or too many sites, keys that are not this site's, or two that are the same.
    """
    from moretta.shared.core.flower_private import create_shares, encrypt, share_keys_plaintext_concat

    session = store.get(number)
    public_keys = {name: (first.hex(), second.hex()) for name, (first, second) in sorted(peers.items())}
    if session.sent:
        _require(public_keys == session.peers, "keys of other sites than before")
        return {name: bytes.fromhex(text) for name, text in session.sent.items()}
    _require(
        min_sites <= len(public_keys) <= MAX_SITES,
        f"a sum of {len(public_keys)} updates; expected {min_sites} to {MAX_SITES}",
    )
    _require(public_keys.get(site) == session.public, "other keys of this site than it gave")
    _require(
        len({key for pair in public_keys.values() for key in pair}) == 2 * len(public_keys), "a key that two sites have"
    )
    names, least = list(public_keys), threshold(len(public_keys), min_sites)
    seed = os.urandom(32)
    of_seed = create_shares(seed, least, len(names))
    of_key = create_shares(bytes.fromhex(session.mask_key), least, len(names))
    for place, name in enumerate(names):
        if name == site:
            session.held[site] = (of_seed[place].hex(), of_key[place].hex())
            continue
        text = share_keys_plaintext_concat(names.index(site), place, of_seed[place], of_key[place])
        session.sent[name] = encrypt(agreed_key(bytes.fromhex(session.share_key), peers[name][1]), text).hex()
    session.seed, session.peers = seed.hex(), public_keys
    store.keep(session)
    return {name: bytes.fromhex(text) for name, text in session.sent.items()}


def take_shares(
    store: SessionStore, number: str, site: str, received: Mapping[str, bytes], *, min_sites: int
) -> Session:
    """Before the third answer: keep the shares of the others' secrets. Who sent none is no longer there.

    Raises:
        RefusedError: too few, from somebody else, or not to be read.
    """
    from cryptography.fernet import InvalidToken

    from moretta.shared.core.flower_private import decrypt, share_keys_plaintext_separate

    session = store.get(number)
    names = list(session.peers)
    _require(site not in received and set(received) <= set(names), "shares of somebody who takes no part")
    _require(len(received) + 1 >= threshold(len(names), min_sites), f"shares of {len(received)} other sites: too few")
    if len(session.held) > 1:
        _require(set(session.held) == {site, *received}, "shares of other sites than before")
        return session
    for name, text in received.items():
        key = agreed_key(bytes.fromhex(session.share_key), bytes.fromhex(session.peers[name][1]))
        try:
            source, target, of_seed, of_key = share_keys_plaintext_separate(decrypt(key, text))
        except InvalidToken as error:
            raise RefusedError(f"shares of {name} that cannot be decrypted") from error
        _require((source, target) == (names.index(name), names.index(site)), f"shares of {name} that are another's")
        session.held[name] = (of_seed.hex(), of_key.hex())
    store.keep(session)
    return session


def masked(session: Session, site: str, words: Words) -> Words:
    """Third answer: whole numbers under a mask of this site's own, and one in common with each other site.

    Args:
        session: after `take_shares`, before `unmask`.
        site: this one's name.
        words: uint32 [values].

    Raises:
        RefusedError: the session is over.
    """
    _require(bool(session.seed), "a masked update after its masks were taken off")
    covered = words + mask(bytes.fromhex(session.seed), len(words))
    for name in sorted(session.held.keys() - {site}):
        common = shared_mask(bytes.fromhex(session.mask_key), bytes.fromhex(session.peers[name][0]), len(words))
        covered += signed(common, site, name)
    return covered


def unmask(
    store: SessionStore, number: str, site: str, survivors: Collection[str], *, min_sites: int
) -> dict[str, bytes]:
    """Fourth answer: a share of the seed of each site whose update is in the sum, and of the key of each other one.

    Never both of one site: with both of them its update could be had. This site's own secrets are gone after that.

    Raises:
        RefusedError: too few are in the sum, or not this one, or it was told of others before.
    """
    session = store.get(number)
    known, there = session.held.keys(), set(survivors)
    _require(bool(session.question), "an unmasking before an update")
    _require(there <= known and site in there, "a sum of others' updates")
    _require(len(there) >= threshold(len(session.peers), min_sites), f"a sum of {len(there)} updates: too few")
    store.let_unmask(session.round, _digest(session.question, there))
    if session.unmasked is None:
        session.unmasked = {name: session.held[name][name not in there] for name in sorted(known)}
        session.seed = session.mask_key = session.share_key = ""
        store.keep(session)
    return {name: bytes.fromhex(text) for name, text in session.unmasked.items()}


def _digest(question: str, survivors: Collection[str]) -> str:
    return hashlib.sha256("\n".join([question, *sorted(survivors)]).encode()).hexdigest()


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise RefusedError(f"secure aggregation: {found}")
