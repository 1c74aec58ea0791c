"""One worker process: its loop, heartbeat, watchdog and entries in Redis."""
