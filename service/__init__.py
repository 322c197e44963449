"""The ledger of releases: an API, its migrations and the front before it."""
