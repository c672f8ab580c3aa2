"""The study file: one module per section."""
