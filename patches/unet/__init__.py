"""How token pruning is wired into the U-Net of a MODEL."""
