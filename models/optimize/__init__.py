"""Faster and smaller forms of a model, and the proof that they answer the same."""
