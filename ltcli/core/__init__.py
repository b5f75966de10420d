"""Errors, parameter declarations, logging and seeds; imports nothing of ours."""
