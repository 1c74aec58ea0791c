"""The gateway's processes: granian, its event loop and signals."""
