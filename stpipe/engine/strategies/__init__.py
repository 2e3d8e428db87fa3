"""How a batch is computed: `plain`, `micro`, `recompute`, `two_pass`, and `auto`, which picks one of them."""

from stpipe.engine.strategies.auto import Auto, in_words
from stpipe.engine.strategies.base import Choice, Cost, MicroBatch, Situation, Strategy
from stpipe.engine.strategies.micro import Micro
from stpipe.engine.strategies.single_graph import Plain, Recompute
from stpipe.engine.strategies.two_pass import TwoPass

__all__ = ["Auto", "Choice", "Cost", "Micro", "MicroBatch", "Plain", "Recompute", "Situation", "Strategy", "TwoPass", "in_words"]
