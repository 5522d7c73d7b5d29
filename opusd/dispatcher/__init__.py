"""The one writer and what stands around it: commands and facts in, commits, plans, replies and events out.

Decide at once, commit in groups, act after the commit. Everything that changes a job goes through
`writer.Writer`; the rest of this package says what to decide and what to answer.
"""
