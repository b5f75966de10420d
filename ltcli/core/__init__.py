"""Errors, parameter declarations, logging; imports nothing of ours."""
