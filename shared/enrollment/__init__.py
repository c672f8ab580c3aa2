"""The join string, and what a site and its server derive from it before they know each other."""
