"""Experiment trackers. Each is a reader of the run directory, in a process of its own (trackers/follow.py says why).

`Tracker` is what a configuration holds and `Session` the connection that it makes; a user's own is a dataclass registered in
TRACKERS. The run starts and ends the processes through `Followers`.
"""

from stpipe.trackers.base import Ending, Memory, Session, TrackedRun, Tracker
from stpipe.trackers.followers import Followers
from stpipe.trackers.mlflow import MLflowTracker
from stpipe.trackers.records import Record
from stpipe.trackers.tensorboard import TensorBoardTracker
from stpipe.trackers.wandb import WandbTracker

__all__ = [
    "Tracker",
    "Session",
    "TrackedRun",
    "Memory",
    "Record",
    "Ending",
    "Followers",
    "MLflowTracker",
    "WandbTracker",
    "TensorBoardTracker",
]
