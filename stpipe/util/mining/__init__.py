"""Mining of hard negatives: pairs -> candidates -> rules -> choice -> rows and a report."""
