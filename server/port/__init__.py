"""The one guarded port: mutual TLS 1.3, identity of the caller, limits, and the response to each request."""

import os
import sys


def shut_out_tls_1_2() -> None:
    """Leave TLS 1.2 no cipher that an EC certificate could be used with; TLS 1.3's are not affected.

    gRPC for Python has no setting for the lowest version, and reads this one when it is loaded.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("TLS 1.2 can be shut out only before gRPC is loaded")
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"  # for RSA alone
