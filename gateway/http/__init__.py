"""Requests and responses, independent of framework: messages, bodies, threads."""
