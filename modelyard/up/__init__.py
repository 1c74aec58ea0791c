"""`modelyard up`: Redis, gateway and pool as child processes of one command."""
