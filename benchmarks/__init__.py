"""The trainer against TRL, and the sampler against transformers' `generate`, at equal losses: docs/performance.md."""
