"""The run's memory: an append-only journal of its finished prompts, with lock and resume."""
