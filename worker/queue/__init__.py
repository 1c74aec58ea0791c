"""The batch protocol: claim, lease, prefetch, finish, recover; which queue is next."""
