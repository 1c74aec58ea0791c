"""The ground floor, shared by every part of a yard. Imports nothing else of ours."""
