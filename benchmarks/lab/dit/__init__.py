"""What pruning does to pictures of the demo's transformer: cases, runs and tables."""
