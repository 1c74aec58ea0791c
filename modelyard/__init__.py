"""The `modelyard` command, and the public face of the project."""
