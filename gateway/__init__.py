"""The HTTP gateway: requests become jobs, results become responses; operators see the yard."""
