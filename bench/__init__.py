"""Modelyard measured side by side with its peers: ``make bench``.

A part is a module with ``run(quick)``, which measures and gives a `bench.report.Section`: `engine`,
`queues` (the part ``peers``), `submit`, `idle`, `serving` (the part ``http``), `scale`, `memory`.
They stand on `yard` (a Redis, a store, processes), `jobs` (our side of a drain), `drivers` (the
peers' side, which runs what is in `bench.peers`), `contest` (turns), `measure` and `report`.
"""

import yard  # noqa: F401  # turns telemetry off before a part imports onnxruntime
