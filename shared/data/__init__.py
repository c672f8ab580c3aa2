"""Recordings of people: readers of corpora, checks, splits, and decoding of sound and pictures."""
