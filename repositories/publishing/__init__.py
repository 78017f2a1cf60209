"""SQL of publishing: channels and slots, orders, the ledger of effects, limits, conversations."""
