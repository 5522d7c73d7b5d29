"""How work is done: the pool, the launcher and its shims, adoption, following output, one adapter an agent program.

Knows processes, files and the event loop. Must not know the registry, the dispatcher or the wire.
"""
