"""Human feedback as tables: sources, schemas, quarantine, splits, conversions to rankings, checks of the whole set."""
