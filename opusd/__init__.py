"""opusd: a daemon that runs a person's coding agents, in order, within limits, and loses nothing."""

__version__ = "0.1.0"
