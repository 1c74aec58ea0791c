"""What the calls share: clients of Redis, sync and async."""
