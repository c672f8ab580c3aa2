"""What a site and its server must agree on before they know each other: the join string and what is derived from it."""
