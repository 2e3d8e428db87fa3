"""Behaviour added to the loop from outside."""

from stpipe.engine.callbacks.base import Callback
from stpipe.engine.callbacks.metrics_log import MetricsLog
from stpipe.engine.callbacks.progress import ProgressDisplay
from stpipe.engine.callbacks.sparsity import SparsityWatch

__all__ = ["Callback", "MetricsLog", "ProgressDisplay", "SparsityWatch"]
