"""opusd under load: what a crowd of workers, connections and subscribers, or an agent that prints without end, costs
everybody else. `__main__` runs it.
"""
