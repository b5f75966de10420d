"""Training loop, inference, schedules and checkpoints."""
