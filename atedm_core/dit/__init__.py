"""Token pruning in the steps of a diffusion transformer (CAT Pruning)."""
