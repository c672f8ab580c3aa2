"""Flower strategies, wrapped: updates are checked, sites counted, and answers taken in one order."""
