"""Utility: how much emotion is left in what was released, the other side of an anonymizer's account."""
