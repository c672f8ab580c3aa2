"""A site's part in secure aggregation."""
