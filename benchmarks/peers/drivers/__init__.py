"""One client program a queue, each run by a Python that has the queue's own library and nothing else.

A driver reads one call a line from its standard input and answers with what it measured: see `serve`.
"""
