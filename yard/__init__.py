"""The ground floor: what every part of a yard shares. Imports nothing else of ours."""
