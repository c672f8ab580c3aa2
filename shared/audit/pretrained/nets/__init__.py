"""The networks themselves, as bare modules: kept apart so that listing the attackers does not load torch."""
