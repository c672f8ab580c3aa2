"""Anonymizers: one file each, found by name. A new one is one file with the `anonymizer` decorator."""
