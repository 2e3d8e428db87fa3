"""Data: sources, roles, checks, token cache, samplers, mixtures, batches."""

from stpipe.data import samplers as samplers
