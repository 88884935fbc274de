"""From a checkpoint to files that production runs, each compared with the original before it gets its name."""
