"""What runs a stage: its graph, inputs, outputs, locks, exit code, and the process that supervises it."""
