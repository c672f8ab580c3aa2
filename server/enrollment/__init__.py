"""Identities: the certificate authority, the registry of sites and tokens, and the service for both."""
