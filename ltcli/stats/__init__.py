"""Closed forms: tensors in, tensors out."""
