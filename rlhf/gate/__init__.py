"""May a policy be promoted? Statistics, checks and the decision, as pure functions; the ledger of promotions."""
