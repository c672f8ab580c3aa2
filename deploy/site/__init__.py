"""What runs at a site: connector and SuperNode under one supervisor, and what helps its steward."""
