"""Devices, precision, processes, transfers and seeds, below everything that computes."""
