"""The HTTP front: requests become jobs, results become responses; what operators see."""
