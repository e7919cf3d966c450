"""How far pruned pictures are from the unpruned ones: cases, runs, measures, tables and plots of the fidelity lab."""
