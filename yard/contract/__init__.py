"""What travels between the parts, and under which Redis key."""
