"""Attacks beyond identity: what else released representations, models and updates give away about people.

Pure functions of arrays. Every attack trains on other people than those it is judged on, and says against which chance
value, and with which interval, its figure stands.
"""
