"""The store: manifests, artefacts, runtimes, and the cache of loaded models.

`Manifest` and `Repository` are light: who imports them gets neither numpy nor scikit-learn, and no
client of an object store. What holds or makes models is imported from its own module, where it is
needed: `models.runtimes` (`load`, `Loaded`), `models.runtimes.model_cache` (`ModelCache`),
`models.publish.publisher` (`publish`, `register_store`), `models.publish.quantize` (`quantize`) and
`models.examples.examples` (`publish_examples`).
"""

from models.manifest import File, Manifest
from models.store.repository import Repository, open_repository

__all__ = ["File", "Manifest", "Repository", "open_repository"]
