"""Training at a site: DP-SGD on its own release."""
