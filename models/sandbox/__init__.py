"""A confined child process that opens untrusted model files."""
