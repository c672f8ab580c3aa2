"""`moretta study`: a study over the sites that are enrolled at a running server."""
