"""Training: one module with all parameters, strategies that compute it, a loop that runs it."""

from stpipe.engine import backends, callbacks, optim, schedules, strategies

__all__ = ["backends", "callbacks", "optim", "schedules", "strategies"]
