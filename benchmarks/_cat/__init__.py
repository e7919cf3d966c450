"""How far pictures with CAT Pruning are from the unpruned ones, on the demo's diffusion transformer."""
