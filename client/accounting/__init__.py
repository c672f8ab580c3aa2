"""The privacy ledger of a site and its budgets."""
