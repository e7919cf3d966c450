"""What pruning does to pictures of the demo's U-Net: cases, runs, tables and plots."""
