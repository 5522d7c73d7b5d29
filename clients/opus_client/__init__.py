"""opus_client: the Python library of opusd."""
