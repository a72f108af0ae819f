"""The worker owns jobs: their API, their tasks and schedule, and the event archive."""
