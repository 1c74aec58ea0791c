"""Which version gets a model's traffic, and which must be warm first."""
