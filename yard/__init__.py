"""The ground floor, shared by every part of a yard. Imports nothing else of ours.

All of ours, the benchmark and the tests import it before any library for models, so it is here that
the telemetry of onnxruntime is turned off: importing that would write a device's id and a database
to the home folder and look up a host. The library reads the variable when it is imported.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
