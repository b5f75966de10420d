"""Statistics in closed form: tensors in, tensors out."""
