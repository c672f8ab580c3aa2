"""The one guarded port: mutual TLS 1.3, identity of the caller, limits, and the response to each request."""
