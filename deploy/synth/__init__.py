"""Programs that derive the data files shipped inside the package from their public sources."""
