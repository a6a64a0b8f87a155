"""Encoders, poolings, heads, and the whole model that returns `Output`."""
