"""Training: one module with all parameters, strategies that compute it, a loop that runs it."""

from stpipe.engine import backend, callbacks, optim, schedules, strategies

__all__ = ["backend", "callbacks", "optim", "schedules", "strategies"]
