"""Encoders that others trained, used as they are: each wrapped to the same few methods."""
