"""What publishing does to the world: one effect an activity, with a row in the ledger before the wire is touched."""
