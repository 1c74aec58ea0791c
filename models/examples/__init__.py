"""The example models that `modelyard up` publishes into an empty store."""
