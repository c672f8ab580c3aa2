"""Programs of a site: connector and SuperNode under one supervisor, and tools for its steward."""
