"""The commands that work on published versions: look at them, move them, end them, clean up.

They parse arguments, call `models.verification`, `models.archive`, `models.garbage` and
`yard.registry.lifecycle`, and print. Nothing is decided here, and nothing heavy is imported before
a command runs.
"""
