"""The artefact store: versions and their files, in a folder or an object store."""
