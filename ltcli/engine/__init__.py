"""The training loop, inference, schedules and checkpoints."""
