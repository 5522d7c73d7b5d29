"""The socket: connections, who is asking, which coroutine answers, and events pushed to those who subscribed.

It talks to a Commands protocol that it declares, and knows nothing of jobs, stores or agents.
"""
