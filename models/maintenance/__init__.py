"""Upkeep of a store: garbage collection, export and import, verification."""
