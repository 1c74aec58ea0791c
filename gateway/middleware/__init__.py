"""What cuts across all calls: request ids, the log, problem responses."""
