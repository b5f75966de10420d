"""Long-tailed image classification from the command line, with numbers that can be checked."""

__version__ = "0.1.0"
