"""Group commit, with a registry whose commits fail when the test says so."""
