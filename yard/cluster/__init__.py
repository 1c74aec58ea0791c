"""The running cluster: which pools and workers live, what waits, what crashed."""
