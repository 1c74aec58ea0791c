"""The subcommands of `modelyard`; `modelyard.cli` imports each only when it is called.

They parse arguments, call the other packages and print; no decision is made here. Heavy libraries
are imported only when a command runs, so that help is fast.
"""
