"""The training loop, inference, schedules, devices and checkpoints."""
