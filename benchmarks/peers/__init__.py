"""opusd beside other queues, measured in the same run on the same disk: see benchmarks/README.md."""
