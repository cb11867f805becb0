"""The actor of a worker process: its calls, its coroutines, its end."""
