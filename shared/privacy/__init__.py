"""Privacy mechanisms, where their noise comes from, and what they spend."""
