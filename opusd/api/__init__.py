"""The contract as code: records, parameters, results, the method table and the frames of the wire.

The only part of opusd that clients may import. It knows no daemon, no socket and no clock.
"""
