"""The audit: every released representation, attacked as a determined adversary would."""
