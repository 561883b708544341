"""Who gets which request.

Three rules of this package: the core (`core`, `dispatch`, `roster`, `routing`, `lanes`, `lifecycle`) takes messages and `now`
and returns actions; one process, one thread, no asyncio; nothing is kept on disk, so the broker may be killed at any moment.
"""
