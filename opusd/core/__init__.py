"""The pure core: every rule of the queue, and no clock, socket, file, thread or random number.

`now` is always an argument: microseconds since 1970 in UTC. Nothing here may import anything but
the standard library's data modules and msgspec.
"""
