"""Data types that every layer shares: tokens, representations, targets, loss results, step context."""
