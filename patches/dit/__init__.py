"""How CAT Pruning is wired into the transformer of a MODEL."""
