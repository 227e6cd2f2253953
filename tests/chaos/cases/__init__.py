"""The cases, one module for each thing that can fail."""
