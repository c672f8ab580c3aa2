from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moretta.deploy.server.server_admin import administer
from moretta.deploy.server.start import create_home
from moretta.server.home import ServerHome
from moretta.shared.enrollment import derive_bootstrap, fingerprint

NODES = {"clinic-a": 11, "clinic-b": 22, "clinic-c": 33}


@pytest.fixture
def home(tmp_path: Path, enroll: Callable[[ServerHome, str, int | None], None]) -> ServerHome:
    """A server's folder in which three sites are enrolled; no server runs on it."""
    made, authority = create_home(
        tmp_path / "server", names=("localhost",), listen="127.0.0.1", port=8443, passphrase=None
    )
    del authority
    for site, node in NODES.items():
        enroll(made, site, node)
    return made


@pytest.fixture
def enroll() -> Callable[[ServerHome, str, int | None], None]:
    def enroll(home: ServerHome, site: str, node: int | None, *, reenroll: bool = False) -> None:
        """As the enrollment service does it; `node` is the id that Flower gives, None if it gave none yet."""
        from moretta.server.enrollment.authority import load_authority

        authority = load_authority(home.authority, passphrase=None, clock=lambda: 1_800_000_000.0)
        node_key = ec.generate_private_key(ec.SECP384R1()).public_key()
        node_key_text = node_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        tls_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        with administer(home.root) as admin:
            join = admin.issue_token(site=site, hours=1, reenroll=reenroll)
            made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
            token = admin.registry.token(fingerprint(made.certificate_der))
            assert token is not None
            admin.registry.enroll(
                token,
                node_key=node_key_text,
                moretta_version="1",
                issue=lambda: authority.issue_site(site, tls_key, hours=24),
            )
            if node is not None:
                admin.registry.set_node_id(node_key_text, node)

    return enroll
