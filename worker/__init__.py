"""Workers: claim a batch, predict once, finish; and the pool that keeps workers running."""
