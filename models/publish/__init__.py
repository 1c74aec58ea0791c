"""From a file to a published version: examine, try, compile, store, register."""
