"""Which versions are published, how they end, and which queues they have."""
