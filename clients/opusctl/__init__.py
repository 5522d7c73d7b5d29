"""opusctl: the command line of opusd.

It starts fast: argparse and the standard library alone, and of its own code only what the asked verb needs.
It knows the contract of the wire, nothing of the daemon's inside. Data goes to stdout, talk to stderr.
"""
