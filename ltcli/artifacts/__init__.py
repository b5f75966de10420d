"""Artifacts: their kinds and schemas, header reading, and the atomic store."""
