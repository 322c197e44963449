"""The release ledger: the API, its migrations, and the front (Caddy) with the page."""
