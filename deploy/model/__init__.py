"""The model of a finished study: exported with its card, read back, and used on clips."""
