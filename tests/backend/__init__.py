"""The reference backend, held against the contract."""
