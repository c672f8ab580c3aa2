"""The server's last receipt for this site's ledger, kept beside it."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from pydantic import ValidationError

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.privacy.receipt import SignedHead


def receipt_path(ledger: Path) -> Path:
    """Where the receipt of a ledger lies."""
    return ledger.with_name(f"{ledger.stem}.receipt.json")


def stored_receipt(path: Path) -> SignedHead | None:
    """The last receipt, None if the server has not signed one yet.

    Raises:
        RefusedError: there is one and it cannot be read.
    """
    try:
        return SignedHead.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise RefusedError(
            f"the server's receipt {path} cannot be read ({type(error).__name__})",
            fix="restore it from a copy; the server gives a new one for a ledger that is not older than the last",
        ) from error


def keep_receipt(path: Path, receipt: SignedHead, ca: x509.Certificate, *, site: str) -> None:
    """Keep a receipt in the place of the last one, if the server signed it for this site.

    Raises:
        RefusedError: it did not, or it is older than the last.
    """
    receipt.verify(ca)
    if receipt.site != site:
        raise RefusedError(f"a receipt for {receipt.site!r}", expected=f"one for {site!r}")
    last = stored_receipt(path)
    if last is not None and receipt.length < last.length:
        raise RefusedError(f"a receipt for {receipt.length} entries", expected=f"one for at least {last.length}")
    write_atomic(path, receipt.model_dump_json(indent=1), mode=0o600)
