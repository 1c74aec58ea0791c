"""Code for the peers' own environments; imports the peer and `bench.peers`, nothing more.

``*.txt`` pins an environment. ``*_app.py`` is the peer's application as its manual would have it,
with the settings that make it fast; its worker imports it, and `bench.peers.driver` does, to submit
and to read results through the peer's own client.
"""
