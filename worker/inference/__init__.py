"""From a claimed batch to its outcomes: load, check, stack, predict, measure."""
