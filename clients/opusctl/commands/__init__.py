"""The verbs, one module each: `arguments(parser)` declares its options, `run(session, args)` gives the exit code."""
