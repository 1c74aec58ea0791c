"""The subcommands of `modelyard`; `modelyard.cli` imports each only when it is called.

They parse arguments, call the parts of the yard, and print: nothing is decided here. What is heavy
is imported only when a command runs, so that help is fast.
"""
