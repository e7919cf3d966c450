"""Token pruning in the attention blocks of a U-Net (AT-EDM)."""
