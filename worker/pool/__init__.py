"""The supervisor of the workers of one machine: start, watch, scale, stop."""
