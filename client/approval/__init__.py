"""What the steward approves before a site responds."""
