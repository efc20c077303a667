"""Records of what ran: journals that are the truth, a sender that makes MLflow agree, registry, lineage, promotion."""
