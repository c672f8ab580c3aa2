"""Readers of corpora: each file is one layout of folders."""
