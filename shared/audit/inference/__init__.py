"""Inference attacks: what else than identity released representations, models and updates give away about people.

Every attack trains on other people than those it is tested on, and its results have a chance value and an interval.
"""
