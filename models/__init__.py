"""Models: manifests, the artefact store, runtimes, and the cache of loaded models.

`Manifest` and `Repository` are light: importing them brings neither numpy nor scikit-learn, and no
client of an object store. The rooms that load or make models are imported where they are needed:
`models.runtimes` (`load`, `Loaded`, `ModelCache`), `models.publish` (`publish`, `register_store`,
`quantize`) and `models.examples` (`publish_examples`).
"""

from models.manifest import File, Manifest
from models.store import Repository, open_repository

__all__ = ["File", "Manifest", "Repository", "open_repository"]
