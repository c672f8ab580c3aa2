"""Flower's strategies, and wrappers around them: checks of every update, site-level privacy, secure aggregation."""
