"""The same batch through TRL and through this project: loss and gradients are equal, or a test says where they differ.

TRL is an oracle, not a dependency: `make test` installs the release of the extra `bench` beside the locked versions.
"""
