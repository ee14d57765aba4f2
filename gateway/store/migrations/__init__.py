"""The schema's history. One file per step in ``versions``; ``gateway.store.migrate`` walks them."""
