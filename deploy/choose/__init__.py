"""`moretta choose`: the anonymizer that keeps most emotion under a cap on re-identification, on a site's own clips."""
