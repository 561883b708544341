"""Who gets which request.

Three rules of this package: the core (all but `server` and `__main__`) takes messages and `now`
and returns actions; one process, one thread, no asyncio; nothing is kept on disk, so the broker may be killed at any moment.
"""
