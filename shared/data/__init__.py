"""Recordings of people in CREMA-D layout: names, reader, splits, and a synthetic corpus."""
