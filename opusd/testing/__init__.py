"""Public means to test what is built on opusd: a clock with hands, and what else the project tests itself with."""
